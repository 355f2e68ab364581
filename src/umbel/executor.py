"""Runs the user's function for one request and says what became of it. It never raises.

``execute`` is for synchronous tasks, ``execute_async`` for coroutine tasks; they differ in one
``await``. Whatever user code does ends here in an Outcome: exceptions that are verdicts (Retry,
Ignore, Reject), exceptions that the task's policy retries, and failures. What follows from an
outcome is decided in ``canvas.advance``.
"""

from __future__ import annotations

import datetime as dt
import logging
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from umbel import backoff, context, states
from umbel.bound import BoundTask, RetryPolicy
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import Ignore, Reject, Retry, TaskPredicate, TaskRevokedError
from umbel.message import Outcome
from umbel.wire.task import Request

logger = logging.getLogger("umbel.task")

_monotonic = SYSTEM_CLOCK.monotonic


def execute(bound: BoundTask, request: Request) -> Outcome:
    """Run a synchronous task in this thread."""
    token = context.current_request.set(request)
    started = _monotonic()
    try:
        try:
            for hook in bound.before:
                hook(request)
            value = bound.run(*request.args, **request.kwargs)
            runtime = _monotonic() - started
            outcome = Outcome(states.SUCCESS, value, runtime=runtime, done_at=bound.now())
        except BaseException as error:  # noqa: BLE001 -- whatever user code raises is its outcome
            outcome = judge(bound, request, error, _monotonic() - started)
        if bound.after:
            run_after_hooks(bound, request, outcome)
    finally:
        context.current_request.reset(token)
    return outcome


async def execute_async(
    bound: BoundTask, request: Request, *, why: Callable[[], BaseException | None]
) -> Outcome:
    """Run a coroutine task in the running loop.

    When it is cancelled, ``why`` says what the cancellation stands for (a soft time limit, a
    revocation), or None if the task cancelled itself.
    """
    token = context.current_request.set(request)
    started = _monotonic()
    try:
        try:
            for hook in bound.before:
                hook(request)
            value = await bound.run(*request.args, **request.kwargs)
            runtime = _monotonic() - started
            outcome = Outcome(states.SUCCESS, value, runtime=runtime, done_at=bound.now())
        except BaseException as error:  # noqa: BLE001 -- whatever user code raises is its outcome
            outcome = judge(bound, request, why() or error, _monotonic() - started)
        if bound.after:
            run_after_hooks(bound, request, outcome)
    finally:
        context.current_request.reset(token)
    return outcome


def judge(bound: BoundTask, request: Request, error: BaseException, runtime: float) -> Outcome:
    """Turn what a task raised into its outcome."""
    try:
        again = _again(bound, request, error, runtime)
    except Exception as impossible:  # noqa: BLE001 -- a time or a queue that cannot be
        again, error = None, impossible
    if again is not None:
        return again
    match error:
        case Ignore():
            return Outcome(states.IGNORED, error=error, runtime=runtime)
        case Reject():
            return Outcome(states.REJECTED, error=error, requeue=error.requeue, runtime=runtime)
        case TaskRevokedError():
            return Outcome(states.REVOKED, error=error, runtime=runtime, done_at=bound.now())
        case _:
            return Outcome(
                states.FAILURE,
                error=error,
                traceback=format_traceback(error),
                runtime=runtime,
                done_at=bound.now(),
            )


def _again(
    bound: BoundTask, request: Request, error: BaseException, runtime: float
) -> Outcome | None:
    """Return the outcome of a task that will run again, because it says so or its policy does."""
    policy = bound.retry
    if isinstance(error, Retry):
        return _retried(error, runtime, bound.now)
    if isinstance(error, (TaskPredicate, TaskRevokedError)):
        return None
    if isinstance(error, policy.retry_for) and not isinstance(error, policy.never_for):
        return _retried_by_policy(bound, request, error, runtime)
    return None


def retry_delay(policy: RetryPolicy, retries: int) -> float:
    """Return the seconds to wait before the attempt after ``retries`` retries."""
    if not policy.backoff:
        return float(policy.delay)
    return backoff.exponential(
        retries,
        policy.backoff,
        maximum=policy.backoff_max,
        jitter=policy.jitter,
    )


def format_traceback(error: BaseException) -> str:
    """Return the traceback as text, beginning with the user's own frames."""
    own: TracebackType | None = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename == __file__:
        own = own.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, own))
    except BaseException as broken:  # noqa: BLE001 -- a hostile __str__ must not take the outcome away
        return f"{type(error).__name__}: <its text cannot be shown: {type(broken).__name__}>\n"


def _retried(verdict: Retry, runtime: float, now: Callable[[], float]) -> Outcome:
    changes: Mapping[str, Any] = verdict.sig if isinstance(verdict.sig, Mapping) else {}
    reason = verdict.exc if verdict.exc is not None else verdict
    return Outcome(
        states.RETRY,
        error=reason,
        traceback=format_traceback(reason),
        not_before=_when(verdict.when, now),
        changes=changes or None,
        runtime=runtime,
    )


def _when(when: Any, now: Callable[[], float]) -> float:
    if isinstance(when, dt.datetime):
        return when.timestamp()
    return now() + float(when) if when else 0.0


def _retried_by_policy(
    bound: BoundTask, request: Request, error: BaseException, runtime: float
) -> Outcome | None:
    policy = bound.retry
    if policy.max_retries is not None and request.retries >= policy.max_retries:
        return None
    return Outcome(
        states.RETRY,
        error=error,
        traceback=format_traceback(error),
        not_before=bound.now() + retry_delay(policy, request.retries),
        changes=bound.task.retry_changes(request, **policy.changes) if policy.changes else None,
        runtime=runtime,
    )


def run_after_hooks(bound: BoundTask, request: Request, outcome: Outcome) -> None:
    """Tell those who observe the task. The outcome stands, whatever they do."""
    for hook in bound.after:
        try:
            hook(request, outcome)
        except Exception:
            logger.exception("A hook of task %s[%s] failed", bound.name, request.id)
        except BaseException:  # a late SystemExit or soft limit must not end the worker
            logger.exception("A hook of task %s[%s] was interrupted", bound.name, request.id)
