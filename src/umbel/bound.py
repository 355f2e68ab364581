"""A task as it is run: everything that can be known before a message comes, decided once.

``bind`` compiles a Task into a BoundTask when a worker starts (or ``apply`` first runs it), and
again when the configuration's generation or a signal's receivers changed. Per message nothing is
looked up: hooks nobody overrode and signals nobody connected are not in the tuples.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from umbel import signals, states
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import EncodeError
from umbel.message import Outcome
from umbel.opened import clock_of
from umbel.serializers import compress, get, json_dumps, json_loads
from umbel.wire.task import Request

logger = logging.getLogger("umbel.task")

#: States in which a task has not returned: it takes no part, or will run again.
_NOT_RETURNED = frozenset({states.IGNORED, states.REJECTED, states.RETRY})

#: Why a task is revoked that was not running.
_BEFORE_IT_RAN = ("revoked", "expired")
#: Signals that say what became of a run.
_OUTCOME_SIGNALS = (
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
    signals.task_revoked,
)

BeforeHook = Callable[[Request], None]
AfterHook = Callable[[Request, Outcome], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which exceptions are retried by themselves, and when."""

    retry_for: tuple[type[BaseException], ...] = ()
    never_for: tuple[type[BaseException], ...] = ()
    max_retries: int | None = 3
    #: Seconds between attempts without back-off.
    delay: float = 180.0
    #: Seconds of the first back-off step; 0 = no back-off.
    backoff: float = 0.0
    backoff_max: float = 600.0
    jitter: bool = True
    #: What else ``retry_kwargs`` names.
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoundTask:
    """A task ready to run. Shared by all threads that run it."""

    name: str
    task: Any
    run: Callable[..., Any]
    is_async: bool = False
    acks_late: bool = True
    #: If not, a message whose task failed, or ran out of time, goes to the dead letters.
    acks_failures: bool = True
    acks_timeouts: bool = True
    ignore_result: bool = False
    store_errors: bool = False
    track_started: bool = False
    #: Seconds; None = no limit.
    soft_time_limit: float | None = None
    time_limit: float | None = None
    #: Starts that may end with the death of the process before the message is dead-lettered.
    max_deliveries: int = 3
    #: As Celery writes it; None or 0 = no limit.
    rate_limit: str | float | None = None
    #: Exceptions that are part of the task's contract: logged in one line.
    throws: tuple[type[BaseException], ...] = ()
    #: How its results are encoded and, unless None, compressed.
    dumps: Callable[[Any], bytes] = json_dumps
    loads: Callable[[bytes], Any] = json_loads
    compression: str | None = None
    #: Seconds a stored result lives; None = for ever.
    result_expires: float | None = 86400.0
    failure_expires: float | None = 86400.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    #: The wall time, as its broker sees it.
    now: Callable[[], float] = SYSTEM_CLOCK.now
    before: tuple[BeforeHook, ...] = ()
    after: tuple[AfterHook, ...] = ()


class ExceptionInfo:
    """What hooks get as ``einfo``: the exception and its traceback as text."""

    __slots__ = ("exception", "traceback", "type")

    def __init__(self, exception: BaseException, text: str) -> None:
        self.type = type(exception)
        self.exception = exception
        self.traceback = text

    def __str__(self) -> str:
        """Return the traceback."""
        return self.traceback

    def __repr__(self) -> str:
        """Show which exception it holds."""
        return f"<ExceptionInfo: {self.exception!r}>"


def bind(
    task: Any,
    settings: Mapping[str, Any],
    base: type,
    *,
    before: tuple[BeforeHook, ...] = (),
    after: tuple[AfterHook, ...] = (),
) -> BoundTask:
    """Compile a task.

    ``base`` is the Task class whose hooks do nothing; ``before`` and ``after`` observe every task.
    """

    def option(name: str, setting: str) -> Any:
        value = getattr(task, name, None)
        return settings[setting] if value is None else value

    overrides_call = type(task).__call__ is not base.__call__
    run = task if overrides_call else task.run
    acks = option("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout")
    on_failure = option("acks_on_failure", "task_acks_on_failure")
    on_timeout = option("acks_on_timeout", "task_acks_on_timeout")
    lost = option("reject_on_worker_lost", "task_reject_on_worker_lost")
    return BoundTask(
        name=task.name,
        task=task,
        run=run,
        is_async=inspect.iscoroutinefunction(task.run),
        acks_late=option("acks_late", "task_acks_late"),
        acks_failures=acks if on_failure is None else on_failure,
        acks_timeouts=acks if on_timeout is None else on_timeout,
        ignore_result=option("ignore_result", "task_ignore_result"),
        store_errors=option("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
        track_started=option("track_started", "task_track_started"),
        soft_time_limit=option("soft_time_limit", "task_soft_time_limit"),
        time_limit=option("time_limit", "task_time_limit"),
        max_deliveries=1 if lost is False else settings["task_max_deliveries"],
        rate_limit=None
        if settings["worker_disable_rate_limits"]
        else option("rate_limit", "task_default_rate_limit"),
        throws=tuple(task.throws or ()),
        retry=retry_policy(task),
        now=clock_of(settings).now,
        before=before + _before(task, base),
        after=after + _after(task, base),
        **_keeping(settings),
    )


def nameless(run: Callable[..., Any], settings: Mapping[str, Any]) -> BoundTask:
    """Compile what stands for no task: how results are kept, and nothing else."""
    return BoundTask("", None, run, **_keeping(settings))


def _keeping(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how results are kept; what is wrong with it is said now, not at each result."""
    serializer, compression = get(settings["result_serializer"]), settings["result_compression"]
    if compression is not None:
        compress(compression, b"")
    expires, failed = settings["result_expires"], settings["result_failure_expires"]
    return {
        "dumps": serializer.dumps,
        "loads": serializer.loads,
        "compression": compression,
        "result_expires": expires,
        "failure_expires": expires if failed is None else failed,
    }


def retry_policy(task: Any) -> RetryPolicy:
    """Read a task's retry options, named as in Celery."""
    changes = dict(getattr(task, "retry_kwargs", None) or {})
    backoff = getattr(task, "retry_backoff", False)
    return RetryPolicy(
        retry_for=tuple(getattr(task, "autoretry_for", None) or ()),
        never_for=tuple(getattr(task, "dont_autoretry_for", None) or ()),
        max_retries=changes.pop("max_retries", task.max_retries),
        delay=changes.pop("countdown", task.default_retry_delay),
        backoff=float(max(1.0, backoff)) if backoff else 0.0,
        backoff_max=getattr(task, "retry_backoff_max", 600.0),
        jitter=getattr(task, "retry_jitter", True),
        changes=changes,
    )


def _before(task: Any, base: type) -> tuple[BeforeHook, ...]:
    hooks: list[BeforeHook] = []
    if signals.task_prerun.has_receivers(task):
        hooks.append(lambda request: _send_prerun(task, request))
    if _overridden(task, base, "before_start"):
        hooks.append(lambda request: task.before_start(request.id, request.args, request.kwargs))
    return tuple(hooks)


def _after(task: Any, base: type) -> tuple[AfterHook, ...]:
    hooks: list[AfterHook] = []
    if any(_overridden(task, base, name) for name in ("on_success", "on_failure", "on_retry")):
        hooks.append(lambda request, outcome: _call_outcome_hook(task, request, outcome))
    if any(each.has_receivers(task) for each in _OUTCOME_SIGNALS):
        hooks.append(lambda request, outcome: _send_outcome_signal(task, request, outcome))
    if _overridden(task, base, "after_return"):
        hooks.append(lambda request, outcome: _call_after_return(task, request, outcome))
    if signals.task_postrun.has_receivers(task):
        hooks.append(lambda request, outcome: _send_postrun(task, request, outcome))
    return tuple(hooks)


def _send_prerun(task: Any, request: Request) -> None:
    signals.task_prerun.send(
        task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
    )


def _overridden(task: Any, base: type, name: str) -> bool:
    return getattr(type(task), name, None) is not getattr(base, name, None) or name in vars(task)


def unstorable(outcome: Outcome, error: EncodeError) -> Outcome:
    """Return what a success becomes whose value cannot be stored."""
    failure = EncodeError(f"the task's result cannot be stored: {error}")
    failure.__cause__ = error.__cause__
    return Outcome(states.FAILURE, error=failure, runtime=outcome.runtime)


def exception_info(outcome: Outcome) -> ExceptionInfo | None:
    """Return what hooks call einfo, if the outcome has an exception."""
    if outcome.error is None:
        return None
    text = outcome.traceback or "".join(traceback.format_exception_only(outcome.error))
    return ExceptionInfo(outcome.error, text)


def _call_outcome_hook(task: Any, request: Request, outcome: Outcome) -> None:
    about = (request.id, request.args, request.kwargs)
    match outcome.state:
        case states.SUCCESS:
            task.on_success(outcome.value, *about)
        case states.FAILURE:
            task.on_failure(outcome.error, *about, exception_info(outcome))
        case states.RETRY:
            task.on_retry(outcome.error, *about, exception_info(outcome))
        case _:
            pass


def _send_outcome_signal(task: Any, request: Request, outcome: Outcome) -> None:
    match outcome.state:
        case states.SUCCESS:
            signals.task_success.send(task, result=outcome.value, runtime=outcome.runtime)
        case states.FAILURE:
            signals.task_failure.send(
                task,
                task_id=request.id,
                exception=outcome.error,
                args=request.args,
                kwargs=request.kwargs,
                traceback=outcome.error.__traceback__ if outcome.error else None,
                einfo=exception_info(outcome),
            )
        case states.RETRY:
            signals.task_retry.send(
                task, request=request, reason=outcome.error, einfo=exception_info(outcome)
            )
        case states.REVOKED:
            _send_revoked(task, request, outcome)
        case _:
            pass


def _send_revoked(sender: Any, request: Request, outcome: Outcome) -> None:
    reason = str(outcome.error)
    signals.task_revoked.send(
        sender,
        request=request,
        terminated=reason not in _BEFORE_IT_RAN,
        signum=None,  # TERM, if it was terminated
        expired=reason == "expired",
    )


def tell_revoked(bound: BoundTask, request: Request, outcome: Outcome) -> None:
    """Send ``task_revoked`` for a task that does not run: revoked, expired, its process ended.

    If the task is not known here, the sender is its name.
    """
    if signals.task_revoked.receivers:
        _send_revoked(bound.task or request.task, request, outcome)


def _call_after_return(task: Any, request: Request, outcome: Outcome) -> None:
    if outcome.state in _NOT_RETURNED:
        return
    task.after_return(
        outcome.state,
        outcome.value if outcome.error is None else outcome.error,
        request.id,
        request.args,
        request.kwargs,
        exception_info(outcome),
    )


def _send_postrun(task: Any, request: Request, outcome: Outcome) -> None:
    signals.task_postrun.send(
        task,
        task_id=request.id,
        task=task,
        args=request.args,
        kwargs=request.kwargs,
        retval=outcome.value if outcome.error is None else outcome.error,
        state=outcome.state,
    )


# --- errbacks


def bound_in(app: Any, name: str) -> BoundTask | None:
    """Return an application's task as it is run, if it has it."""
    task = app.tasks.get(name)
    return None if task is None else task.bound_task()


def call_errbacks(
    request: Request, outcome: Outcome, find: Callable[[str], BoundTask | None]
) -> list[Any]:
    """Call the errbacks of a failed request that want the exception; return the others.

    They come in two forms, told apart by the parameters of their function. With one it is a task
    like any other, sent with the id of the call that failed. With more, or any number, it is called
    at once by whoever saw the failure, with the request, the exception and the traceback.
    """
    others = []
    for errback in request.errbacks or ():
        bound = find(errback.get("task", ""))
        if bound is None or not _takes_exception(bound, errback):
            others.append(errback)
        else:
            _call_errback(bound, errback, request, outcome)
    return others


def _call_errback(
    bound: BoundTask, errback: Mapping[str, Any], request: Request, outcome: Outcome
) -> None:
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
    code = run.__code__
    takes_any = bool(code.co_flags & inspect.CO_VARARGS)
    return takes_any or code.co_argcount - len(errback.get("args") or ()) > 1
