"""potatoq. Its processes are not recycled: that would hide their CPU time from us."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from potatoq import Potatoq, group  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

from bench import apps
from bench.tasks import TASKS

functions = dict(TASKS)
if apps.coroutines():
    from bench.naps import nap

    functions["nap"] = nap

app = Potatoq("bench", broker=apps.broker(), backend=apps.broker())
registered = {name: app.task(name=name)(function) for name, function in functions.items()}


def sender(task: str) -> Callable[..., Any]:
    """Return the task's ``delay``."""
    delay: Callable[..., Any] = registered[task].delay
    return delay


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send a group."""
    signature = registered[task].s
    return list(group(signature(*args) for args in calls).apply_async().results)


def wait(handle: Any, timeout: float) -> Any:
    """Wait with the pauses that potatoq chooses."""
    return handle.get(timeout=timeout)
