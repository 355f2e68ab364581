"""The tasks, as plain functions: every system registers these same ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from bench.probe import Probe, from_environment

_probe: Probe | None = None


def probe() -> Probe:
    """Return this process's probe; a forked worker opens its own, with a slot of its own."""
    global _probe  # noqa: PLW0603 -- once a process; a look-up in an object would cost every task
    if _probe is None:
        _probe = from_environment()
    return _probe


def noop(number: int) -> int:
    """Do nothing but note it."""
    probe().mark()
    return number


def take(data: str) -> int:
    """Take a payload."""
    probe().mark()
    return len(data)


def stamp(sent: int) -> int:
    """Note how long ago the call was sent (nanoseconds of the monotonic clock)."""
    probe().sample(time.monotonic_ns() - sent)
    return sent


def rest(seconds: float) -> float:
    """Wait, as a task does that asks another server; note it when it ends."""
    time.sleep(seconds)
    probe().mark()
    return seconds


def hog(seconds: float) -> float:
    """Wait, and note nothing: it is there to be in the way of others."""
    time.sleep(seconds)
    return seconds


#: By the name under which the client asks for them.
TASKS: dict[str, Callable[..., Any]] = {
    "noop": noop,
    "take": take,
    "stamp": stamp,
    "rest": rest,
    "hog": hog,
}


def _forget() -> None:
    global _probe  # noqa: PLW0603
    _probe = None


os.register_at_fork(after_in_child=_forget)
