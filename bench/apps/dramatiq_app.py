"""dramatiq on Redis or RabbitMQ, with its result backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dramatiq  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
from dramatiq.brokers.redis import (  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
    RedisBroker,
)
from dramatiq.results import (  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
    Results,
)
from dramatiq.results.backends import (  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
    RedisBackend,
)

from bench import apps
from bench.tasks import TASKS

if apps.on_rabbitmq():
    from dramatiq.brokers.rabbitmq import (  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
        RabbitmqBroker,
    )

    broker: Any = RabbitmqBroker(url=f"{apps.url()[:-2]}/%2f", confirm_delivery=True)
else:
    broker = RedisBroker(url=apps.url())
broker.add_middleware(Results(backend=RedisBackend(url=apps.results())))
dramatiq.set_broker(broker)
registered = {
    name: dramatiq.actor(function, actor_name=name, store_results=True)
    for name, function in TASKS.items()
}


def sender(task: str) -> Callable[..., Any]:
    """Return the actor's ``send``."""
    send: Callable[..., Any] = registered[task].send
    return send


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send a group, which sends one after the other."""
    message = registered[task].message
    return list(dramatiq.group(message(*args) for args in calls).run().children)


def wait(handle: Any, timeout: float) -> Any:
    """Wait for the result."""
    return handle.get_result(block=True, timeout=int(timeout * 1000))
