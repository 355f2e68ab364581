"""umbel as its defaults have it: results stored, acknowledged after the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import apps
from bench.tasks import TASKS
from umbel import Umbel, group

functions: dict[str, Callable[..., Any]] = dict(TASKS)
if apps.coroutines():
    from bench.naps import nap

    functions["nap"] = nap

app = Umbel(
    "bench",
    broker=apps.broker(),
    backend=apps.results(),
    broker_transport_options={"synchronous": apps.synchronous()},
)
registered = {name: app.task(name=name)(function) for name, function in functions.items()}


def sender(task: str) -> Callable[..., Any]:
    """Return the task's ``delay``."""
    delay: Callable[..., Any] = registered[task].delay
    return delay


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send a group, which is one transaction."""
    signature = registered[task].s
    return list(group(signature(*args) for args in calls).apply_async().results)


def wait(handle: Any, timeout: float) -> Any:
    """Wait for the result."""
    return handle.get(timeout=timeout)
