"""One module for each system: how to call it. They run in the system's own environment.

Each offers what `Calls` says, and an application object that the system's worker is started with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from bench.tasks import TASKS

#: The queue's file, how often it is synchronised, worker processes; set by the harness.
FILE, SYNCHRONOUS, CONCURRENCY = "BENCH_FILE", "BENCH_SYNCHRONOUS", "BENCH_CONCURRENCY"
#: The server's URL, for a system that is measured on one.
URL = "BENCH_URL"
#: Where results are, if they are not there.
RESULTS = "BENCH_RESULTS"
#: "1" if the coroutine task is wanted.
COROUTINES = "BENCH_COROUTINES"
#: "quorum" if RabbitMQ's queue is one.
QUEUE_TYPE = "BENCH_QUEUE_TYPE"


class Calls(Protocol):
    """What a module here offers to the client."""

    def sender(self, task: str, /) -> Callable[..., Any]:
        """Return what users call to send one call; it returns a handle."""
        ...

    def send_many(self, task: str, calls: Sequence[tuple[Any, ...]], /) -> list[Any]:
        """Send many calls as the system does it best; return some of the handles, the last too."""
        ...

    def wait(self, handle: Any, timeout: float, /) -> Any:
        """Return the result of a call; raise if there is none in time."""
        ...


class CeleryCalls:
    """`Calls` of a system whose tasks, groups and results are called as Celery's are."""

    def __init__(self, tasks: Mapping[str, Any], group: Any) -> None:
        self._tasks = tasks
        self._group = group

    def sender(self, task: str) -> Callable[..., Any]:
        """Return the task's ``delay``."""
        delay: Callable[..., Any] = self._tasks[task].delay
        return delay

    def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send a group."""
        signature = self._tasks[task].s
        return list(self._group(signature(*args) for args in calls).apply_async().results)

    def wait(self, handle: Any, timeout: float) -> Any:
        """Wait for the result."""
        return handle.get(timeout=timeout)


def file() -> Path:
    """Return the path of the queue's file."""
    return Path(os.environ[FILE])


def on_server() -> bool:
    """Tell whether there is a server."""
    return URL in os.environ


def on_rabbitmq() -> bool:
    """Tell whether that is RabbitMQ."""
    return url().startswith("amqp")


def url() -> str:
    """Return where the server is."""
    return os.environ[URL]


def results() -> str:
    """Return the URL of where results are."""
    return os.environ.get(RESULTS) or broker()


def broker() -> str:
    """Return the URL of the server or, without one, of the file."""
    return url() if on_server() else f"sqlite:///{file()}"


def synchronous() -> str:
    """Return NORMAL, FULL or OFF."""
    return os.environ.get(SYNCHRONOUS, "NORMAL")


def queue_type() -> str:
    """Return which type of queue RabbitMQ has."""
    return os.environ.get(QUEUE_TYPE, "classic")


def concurrency() -> int:
    """Return how many worker processes to run."""
    return int(os.environ.get(CONCURRENCY, "2"))


def functions() -> dict[str, Callable[..., Any]]:
    """Return the tasks' functions, the coroutine's too if it is wanted."""
    if os.environ.get(COROUTINES) != "1":
        return TASKS
    return {**TASKS, "nap": import_module("bench.naps").nap}
