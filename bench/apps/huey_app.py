"""huey on SQLite or Redis. It has no call to send many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from huey import RedisHuey, SqliteHuey  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

from bench import apps
from bench.tasks import TASKS

huey = (
    RedisHuey(url=apps.url())
    if apps.on_server()
    else SqliteHuey(filename=str(apps.file()), fsync=apps.synchronous() == "FULL")
)
registered = {name: huey.task(name=name)(function) for name, function in TASKS.items()}


def sender(task: str) -> Callable[..., Any]:
    """Return the task itself: calling it sends."""
    call: Callable[..., Any] = registered[task]
    return call


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send one after the other."""
    send = registered[task]
    return [send(*args) for args in calls]


def wait(handle: Any, timeout: float) -> Any:
    """Poll every millisecond at first; the default's first pause is 100 ms."""
    return handle.get(
        blocking=True, timeout=timeout, backoff=1.1, max_delay=0.01, revoke_on_timeout=False
    )
