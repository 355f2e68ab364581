"""Tasks: what a decorated function becomes, and the base of class-based ones.

A Task is made once, when its module is imported, and shared by all threads; what its calls need
is compiled from it and the configuration into a ``BoundCall`` when it is first sent. Its attributes
are Celery's; None means: as the setting of the same name says.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import CoroutineType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

from umbel import checks, eager
from umbel.annotations import annotated
from umbel.arguments import parameters_of
from umbel.bound import BoundTask, bind
from umbel.bridge import aio
from umbel.calling import BoundCall
from umbel.canvas.group import Composable
from umbel.clock import SYSTEM_CLOCK
from umbel.context import Application, current_app, current_request, reporter
from umbel.exceptions import MaxRetriesExceededError, Retry
from umbel.message import ResultRecord
from umbel.options import CallOptions, call_arguments, check_call, wall_time
from umbel.result import AsyncResult, EagerResult
from umbel.serializers import get
from umbel.wire.result import compress_meta, encode_meta
from umbel.wire.task import Request

P = ParamSpec("P")
R = TypeVar("R")

RetryBackoff = bool | int | float


@dataclass(frozen=True, slots=True)
class _Direct:
    """A task called as a function: its request, and the one that ran then."""

    outer: Request | None
    request: Request


_direct: ContextVar[_Direct | None] = ContextVar("umbel.direct_call", default=None)


class Task(Composable[P, R]):
    """A unit of work. Subclass it for class-based tasks, with ``run`` and, if wanted, hooks."""

    #: As in messages; None = made from the module's and the function's name.
    name: str = ""
    abstract: bool = True
    max_retries: int | None = 3
    #: Seconds between retries without back-off.
    default_retry_delay: float = 180
    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    retry_kwargs: Mapping[str, Any] | None = None
    #: True or the first step's seconds.
    retry_backoff: RetryBackoff = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    rate_limit: str | float | None = None
    #: Seconds.
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    store_eager_result: bool | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    serializer: str | None = None
    compression: str | None = None
    queue: Any = None
    exchange: Any = None
    routing_key: str | None = None
    priority: int | None = None
    #: Seconds or a datetime.
    expires: float | dt.timedelta | dt.datetime | None = None
    delivery_mode: int | str | None = None
    #: Whether arguments are checked where the task is called.
    typing: bool = True
    #: Exceptions that are no errors of the task, but part of what it may answer.
    throws: Sequence[type[BaseException]] = ()
    #: Results of tasks sent by this one are its result's children.
    trail: bool = True
    send_events: bool = True
    resultrepr_maxsize: int = 1024
    #: Arguments annotated as Pydantic models are made of what comes, returned models are dumped.
    pydantic: bool = False
    pydantic_strict: bool | None = None
    pydantic_context: Mapping[str, Any] | None = None
    pydantic_dump_kwargs: Mapping[str, Any] | None = None

    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError

    #: None = the current application, whichever that is: a shared task.
    _app: Application | None = None
    _call: BoundCall | None = None
    #: The value of task_annotations that was applied.
    _annotated_by: Any = None

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    @property
    def app(self) -> Application:
        """The application it belongs to."""
        return self._app or current_app()

    def bind_to(self, app: Application) -> None:
        """Belong to this application."""
        self._app = app
        self._call = None

    def annotate(self, setting: Any) -> None:
        """Set attributes as ``task_annotations`` says, if that was not done yet."""
        if setting is None or setting is self._annotated_by:
            return
        self._annotated_by = setting
        for attributes in annotated(setting, self):
            for name, value in attributes.items():
                kept = checks.check(checks.TASK, name, value, of=f"task_annotations of {self.name}")
                setattr(self, name, kept)
        self._call = None

    def forget_call(self) -> None:
        """Compile what sends it again before its next call."""
        self._call = None

    # --- calling

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now, as a function."""
        outer, direct = current_request.get(), _direct.get()
        if (
            outer is not None
            and outer.task == self.name
            and type(self).__call__ is not Task.__call__
            and (direct is None or direct.outer is not outer)
        ):
            request = outer  # a worker runs an overriding __call__, which calls this one
        else:
            request = Request(task=self.name, args=list(args), kwargs=kwargs)
        direct = _Direct(outer, request)
        token = _direct.set(direct)
        try:
            value = self.run(*args, **kwargs)
        finally:
            _direct.reset(token)
        return _within(value, direct) if isinstance(value, CoroutineType) else value  # type: ignore[return-value]

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call; return when it is stored."""
        call = self._call
        app = self._app or current_app()
        if call is None or call.app is not app or call.snapshot is not app.conf.snapshot:
            call = self.bound_call()
        if call.takes_detour:
            return self.apply_async(args, kwargs)
        return call.send(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call without blocking the event loop; return when it is stored."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Send a call with options; return when it is stored."""
        call = self.bound_call()
        if call.eager:
            return eager.send(self, *call_arguments(args, kwargs), options)
        return call.send_with(*call_arguments(args, kwargs), options)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Send a call with options without blocking the event loop."""
        call = self.bound_call()
        if call.takes_detour:
            return await aio.call(self.apply_async, args, kwargs, **options)
        return await call.asend_with(*call_arguments(args, kwargs), options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run it here and now, with everything a worker does around it; return its result."""
        return eager.run(self, *call_arguments(args, kwargs), options)

    def bound_task(self) -> BoundTask:
        """Compile it for running, under the newest configuration."""
        values = self.app.conf.current().values
        self.annotate(values["task_annotations"])
        return bind(self, values, Task)

    def bound_call(self, app: Application | None = None) -> BoundCall:
        """Return what sends this task under the newest configuration."""
        app = self._app or app or current_app()
        call = self._call
        if call is None or call.app is not app or call.snapshot is not app.conf.snapshot:
            self.annotate(app.conf.current().values["task_annotations"])
            parameters = (
                parameters_of(self.run, self.name.rpartition(".")[2]) if self.typing else None
            )
            call = BoundCall(app, self.name, self, parameters)
            self._call = call
        return call

    # --- while it runs

    @property
    def request(self) -> Request:
        """What is known about the call that runs here."""
        current, direct = current_request.get(), _direct.get()
        if direct is not None and direct.outer is current and direct.request.task == self.name:
            return direct.request
        if current is not None and current.task == self.name:
            return current
        return Request(task=self.name)

    @overload
    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: Literal[True] = True,  # noqa: FBT002 -- Celery's signature
        eta: dt.datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> NoReturn: ...
    @overload
    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        *,
        throw: Literal[False],
        eta: dt.datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry: ...
    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,  # noqa: FBT001, FBT002 -- Celery's signature
        eta: dt.datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """End this run and have the task run again: ``raise self.retry(exc=error)``.

        After ``max_retries`` it raises ``exc`` instead, or MaxRetriesExceededError without one.
        Only an exception that leaves the task makes it run again: with ``throw=False`` raise what
        is returned.
        """
        check_call({"countdown": countdown, **options})
        request = self.request
        cause = sys.exc_info()[1]
        if request.called_directly:
            _raise(exc or cause or Retry("Task can be retried", None), cause)
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and request.retries >= limit:
            _raise(exc or self._exhausted(request), cause)
        if eta is not None:
            zone = self.bound_call().zone
            when: Any = dt.datetime.fromtimestamp(wall_time("eta", eta, zone)[1], dt.UTC)
        else:
            delay: Any = self.default_retry_delay if countdown is None else countdown
            when = delay.total_seconds() if isinstance(delay, dt.timedelta) else delay
        changes = self.retry_changes(request, args=args, kwargs=kwargs, **options)
        verdict = Retry(
            exc=exc or cause,
            when=when,
            is_eager=request.is_eager,
            sig=changes,
        )
        if not throw:
            return verdict
        raise verdict from cause

    def retry_changes(
        self,
        request: Request,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return what a retry of this request changes, as an Outcome holds it."""
        routed = self.bound_call().changes(options) if options and not request.is_eager else None
        changes = {"args": args, "kwargs": kwargs, "options": routed}
        return {name: value for name, value in changes.items() if value is not None}

    def _exhausted(self, request: Request) -> BaseException:
        return self.MaxRetriesExceededError(
            f"can't retry {self.name}[{request.id}]: it was retried {request.retries} times "
            f"(args: {request.args!r:.200}, kwargs: {request.kwargs!r:.200})",
            task_args=request.args,
            task_kwargs=request.kwargs,
        )

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        **_: Any,
    ) -> None:
        """Store a state of the task and what it wants to tell, such as its progress."""
        request = self.request
        task_id = task_id or request.id
        if state is None:
            raise TypeError("update_state(): expected a state, such as 'PROGRESS', got None")
        if not task_id:
            return  # called as a function: there is nobody to be told
        report = reporter.get()
        if task_id == request.id and report is not None:
            report(request, state, meta)
            return
        if request.is_eager and task_id == request.id:
            return
        values = self.app.conf.current().values
        dumps = get(values["result_serializer"]).dumps
        done_at = SYSTEM_CLOCK.now()
        data = encode_meta(task_id, state, result=meta, date_done=done_at, dumps=dumps)
        if values["result_compression"] is not None:
            data = compress_meta(data, values["result_compression"])
        record = ResultRecord(task_id, data, state, values["result_expires"])
        self.app.servers().results.put([record])

    def AsyncResult(self, task_id: str, **options: Any) -> AsyncResult[R]:
        """Return the result object of a call of this task."""
        return AsyncResult(task_id, app=self.app, **options)

    # --- hooks

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], /) -> None:
        """Be told, in the worker, that a run begins."""

    def on_success(
        self, retval: R, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], /
    ) -> None:
        """Be told, in the worker, that a run succeeded."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: Any,
        /,
    ) -> None:
        """Be told, in the worker, that a run failed."""

    def on_retry(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: Any,
        /,
    ) -> None:
        """Be told, in the worker, that a run asked for another."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: Any,
        /,
    ) -> None:
        """Be told, in the worker, that a task ended; not of retries, Ignore and Reject."""

    def shadow_name(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], /
    ) -> str | None:
        """Return another name for logs and monitors, if this call shall have one."""

    @property
    def sends_itself(self) -> bool:
        """Whether it has an ``apply_async`` of its own, which ``delay`` must not pass by."""
        return type(self).apply_async is not Task.apply_async

    @property
    def names_calls(self) -> bool:
        """Whether it has a ``shadow_name`` of its own."""
        own = getattr(self.shadow_name, "__func__", self.shadow_name)
        return own is not Task.shadow_name

    def __repr__(self) -> str:
        """Show its name."""
        return f"<@task: {self.name} of {(self._app.main if self._app else None) or 'umbel'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the name it is registered by."""
        return (_registered, (self.name,))


class AsyncTask(Task[P, R]):
    """A task whose function is ``async def``."""

    if TYPE_CHECKING:

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
            """Run it here and now, in the running event loop."""


async def _within(running: Coroutine[Any, Any, R], direct: _Direct) -> R:
    token = _direct.set(direct)
    try:
        return await running
    finally:
        _direct.reset(token)


def _raise(error: BaseException, cause: BaseException | None) -> NoReturn:
    if error is cause or cause is None:
        raise error
    raise error from cause


def _registered(name: str) -> Any:
    return current_app().tasks[name]
