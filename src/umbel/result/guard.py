"""Whether a task may wait for another one.

A task that waits for a task holds its place in the worker while it does. When all places are held
like that, what they wait for has nowhere to run, and all wait for ever. So waiting inside of a task
is an error, unless the task says that it knows what it does.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from umbel.context import current_request

_allowed: ContextVar[bool] = ContextVar("umbel.result.allowed", default=False)


def task_join_will_block() -> bool:
    """Tell whether a task runs here that must not wait for others."""
    if _allowed.get():
        return False
    request = current_request.get()
    return request is not None and not (request.is_eager or request.called_directly)


def assert_will_not_block() -> None:
    """Raise RuntimeError inside of a task that must not wait for others."""
    if task_join_will_block():
        raise RuntimeError(
            "a task must not wait for another task: when every worker does, none is left to run"
            " what they wait for. Use a callback, a chain or a chord; or wait inside of"
            " `with allow_join_result():` where that cannot happen"
        )


@contextmanager
def allow_join_result() -> Generator[None]:
    """Let the task that runs here wait for others in this block."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


@contextmanager
def denied_join_result() -> Generator[None]:
    """Forbid it again, inside of ``allow_join_result``."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)
