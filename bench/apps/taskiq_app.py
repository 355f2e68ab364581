"""taskiq on Redis streams, which acknowledge. Its client is asynchronous: a loop runs beside us."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from taskiq_redis import (  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
    RedisAsyncResultBackend,
    RedisStreamBroker,
)

from bench import apps
from bench.tasks import TASKS

broker = RedisStreamBroker(apps.url()).with_result_backend(
    RedisAsyncResultBackend(apps.url(), result_ex_time=86400)
)
registered = {name: broker.task(task_name=name)(function) for name, function in TASKS.items()}


def sender(task: str) -> Callable[..., Any]:
    """Return a function that waits for the task's ``kiq``."""
    kiq = registered[task].kiq
    return lambda *args: _run(kiq(*args))


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send many at the same time."""
    kiq = registered[task].kiq

    async def send() -> list[Any]:
        return list(await asyncio.gather(*(kiq(*args) for args in calls)))

    return list(_run(send()))


def wait(handle: Any, timeout: float) -> Any:
    """Poll every millisecond; the default is 200."""
    found = _run(handle.wait_result(check_interval=0.001, timeout=timeout))
    return found.return_value


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    if not _loops:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        _loops.append(loop)
        _run(broker.startup())
    return asyncio.run_coroutine_threadsafe(coroutine, _loops[0]).result()


_loops: list[asyncio.AbstractEventLoop] = []
