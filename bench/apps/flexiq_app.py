"""flexiq on SQLite, prefork. Polling and batches are set as fast as its settings allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flexiq import Queue  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

from bench import apps

queue = Queue(
    db_path=str(apps.file()),
    workers=apps.concurrency(),
    scheduler_poll_interval_ms=1,
    scheduler_batch_size=100,
)
registered = {name: queue.task(name=name)(function) for name, function in apps.functions().items()}


def sender(task: str) -> Callable[..., Any]:
    """Return the task's ``delay``."""
    delay: Callable[..., Any] = registered[task].delay
    return delay


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send all in one transaction."""
    return list(registered[task].map(list(calls)))


def wait(handle: Any, timeout: float) -> Any:
    """Poll every millisecond at first; the default's first pause is 50 ms."""
    return handle.result(timeout=timeout, poll_interval=0.001, max_poll_interval=0.01)
