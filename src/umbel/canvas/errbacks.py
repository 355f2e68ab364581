"""Errbacks come in two forms, told apart by the parameters of their function.

With one it is a task like any other, sent with the id of the call that failed. With more it is
called at once by whoever saw the failure, with the request, the exception and the traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from umbel.bound import BoundTask
from umbel.message import Outcome
from umbel.wire.task import Request

logger = logging.getLogger("umbel.task")


def call_here(
    request: Request, outcome: Outcome, find: Callable[[str], BoundTask | None]
) -> list[Any]:
    """Call the errbacks of a failed request that want the exception; return the others."""
    others = []
    for errback in request.errbacks or ():
        bound = find(errback.get("task", ""))
        if bound is None or not _takes_exception(bound, errback):
            others.append(errback)
        else:
            _call(bound, errback, request, outcome)
    return others


def _call(bound: BoundTask, errback: Mapping[str, Any], request: Request, outcome: Outcome) -> None:
    about = (request, outcome.error, outcome.traceback)
    if bound.is_async:
        logger.error("The errback %s is not called: it cannot be a coroutine", bound.name)
        return
    try:
        bound.run(*about, *(errback.get("args") or ()), **(errback.get("kwargs") or {}))
    except BaseException:  # SystemExit must not end the worker
        logger.exception("The errback %s of %s failed", bound.name, request.id)


def _takes_exception(bound: BoundTask, errback: Mapping[str, Any]) -> bool:
    run = bound.task.run
    if not isinstance(run, FunctionType):  # a bound task, or one of a class: sent, so it may retry
        return False
    return run.__code__.co_argcount - len(errback.get("args") or ()) > 1
