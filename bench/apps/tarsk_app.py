"""tarsk on Redis, with results kept. Its groups send one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tarsk import App  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

from bench import apps
from bench.tasks import TASKS

app = App(broker=apps.url())
registered = {
    name: app.task(name=name, result_ttl=86400.0)(function) for name, function in TASKS.items()
}


def sender(task: str) -> Callable[..., Any]:
    """Return the task's ``send``."""
    send: Callable[..., Any] = registered[task].send
    return send


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send one after the other."""
    send = registered[task].send
    return [send(*args) for args in calls]


def wait(handle: Any, timeout: float) -> Any:
    """Poll every millisecond; the default is 50."""
    return app.result(handle).get(timeout, poll=0.001)
