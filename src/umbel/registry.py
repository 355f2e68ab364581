"""The tasks of an application: made of functions by the decorators, and kept by name."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, cast

from umbel import checks
from umbel.canvas import maybe_signature
from umbel.canvas.plan import ACCUMULATE, CHUNKS, MAP, STARMAP
from umbel.canvas.windows import CONTINUE, key_of, links_in
from umbel.exceptions import (
    AlreadyRegistered,
    BackendError,
    Continued,
    NotRegistered,
    TaskError,
    TaskPredicate,
)
from umbel.models import with_models
from umbel.options import check_call
from umbel.spelling import suggestion
from umbel.task import AsyncTask, RetryBackoff, Task
from umbel.wire.errors import exception_from_wire

AnyTask: TypeAlias = Task[..., Any]

#: What ``shared_task`` made: every application has these.
shared: list[AnyTask] = []


class TaskRegistry(dict[str, AnyTask]):
    """Tasks by name."""

    def __missing__(self, name: str) -> AnyTask:
        """Say that there is no such task."""
        error = NotRegistered(name)
        error.hint = suggestion(str(name), self) or "; import the module that defines it first"
        raise error

    def own(self) -> list[str]:
        """Return the names of the application's own tasks, without those that every one has."""
        return sorted(name for name in self if not name.startswith(("celery.", "umbel.")))

    def register(self, task: AnyTask) -> None:
        """Add a task under its name.

        A definition made again (a module reloaded) replaces the former one; another one of the same
        name is refused with AlreadyRegistered.
        """
        if not task.name:
            raise ValueError(f"{task!r} has no name")
        known = self.get(task.name)
        if known is not None and _definition(known) != _definition(task):
            raise AlreadyRegistered(
                f"{_definition(known)} is registered as {task.name!r} already: "
                f"give {_definition(task)} another name"
            )
        self[task.name] = task

    def unregister(self, name: str | AnyTask) -> None:
        """Remove a task; raises NotRegistered."""
        name = name if isinstance(name, str) else name.name
        if name not in self:
            raise NotRegistered(name)
        del self[name]


def _definition(task: AnyTask) -> str:
    defined = getattr(task, "__wrapped__", None) or type(task)
    return f"{defined.__module__}.{defined.__qualname__}"


def default_name(name: str, module: str, main: str | None) -> str:
    """Return a task's name unless it has one: its module's and its function's."""
    if module == "__main__" and main:
        module = main
    return f"{module}.{name}"


# --- tasks made of functions


class TaskOptions(TypedDict, total=False):
    """What ``@app.task`` takes, for type checkers."""

    name: str | None
    base: type[Task[..., Any]] | None
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_kwargs: Mapping[str, Any] | None
    retry_backoff: RetryBackoff
    retry_backoff_max: float
    retry_jitter: bool
    rate_limit: str | float | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool | None
    store_errors_even_if_ignored: bool | None
    store_eager_result: bool | None
    track_started: bool | None
    acks_late: bool | None
    acks_on_failure_or_timeout: bool | None
    acks_on_failure: bool | None
    acks_on_timeout: bool | None
    reject_on_worker_lost: bool | None
    serializer: str | None
    compression: str | None
    queue: Any
    exchange: Any
    routing_key: str | None
    priority: int | None
    expires: float | dt.timedelta | dt.datetime | None
    delivery_mode: int | str | None
    typing: bool
    throws: Sequence[type[BaseException]]
    trail: bool
    send_events: bool
    resultrepr_maxsize: int
    pydantic: bool
    pydantic_strict: bool | None
    pydantic_context: Mapping[str, Any] | None
    pydantic_dump_kwargs: Mapping[str, Any] | None
    on_success: Callable[..., Any]
    on_failure: Callable[..., Any]
    on_retry: Callable[..., Any]
    after_return: Callable[..., Any]
    before_start: Callable[..., Any]
    shadow_name: Callable[..., Any]


#: What ``retry`` takes beside the options of a call.
_ONLY_RETRY = frozenset({"args", "kwargs", "max_retries"})
#: Options of the decorator that are no attributes of the task.
_DECORATOR_ONLY = frozenset({"base", "bind", "name", "lazy", "shared", "app"})


def task_from_function(
    function: Callable[..., Any],
    name: str,
    options: Mapping[str, Any],
    default_base: type[Task[..., Any]] = Task,
) -> Task[..., Any]:
    """Return a task that runs this function; it is not registered yet."""
    _check_options(options, of=f"@task {name}")
    base = options.get("base") or default_base
    if base is Task and inspect.iscoroutinefunction(function):
        base = AsyncTask
    _check_names(options, base)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"@task {name}: a generator has no result; return a list instead")
    attributes: dict[str, Any] = {
        key: value for key, value in options.items() if key not in _DECORATOR_ONLY
    }
    run = function
    if options.get("pydantic"):
        run = with_models(
            function,
            strict=options.get("pydantic_strict"),
            context=options.get("pydantic_context"),
            dump_options=options.get("pydantic_dump_kwargs"),
        )
    attributes.update(
        name=name,
        abstract=False,
        run=run if options.get("bind") else staticmethod(run),
        __doc__=function.__doc__,
        __module__=function.__module__,
        __wrapped__=staticmethod(function),
    )
    made = cast("type[Task[..., Any]]", type(function.__name__, (base,), attributes))
    return made()


def _check_options(options: Mapping[str, Any], *, of: str) -> None:
    """Raise TypeError for what can be no class and no argument of one."""
    for name in ("name", "bind"):
        if options.get(name) is not None:
            checks.check(checks.TASK, name, options[name], of=of)
    base = options.get("base")
    if base is not None and not (isinstance(base, type) and issubclass(base, Task)):
        raise TypeError(f"{of}: base: expected a subclass of Task, got {base!r}")


def check_task(task: Task[..., Any]) -> None:
    """Raise TypeError for an attribute that cannot be, or a class without ``run``."""
    if type(task).run is Task.run and "run" not in vars(task):
        raise TypeError(f"{type(task).__name__} has no run(), which does the work of a task")
    for name in checks.TASK:
        value = getattr(task, name, None)
        if value is not getattr(Task, name, None):
            kept = checks.check(checks.TASK, name, value, of=f"the task {task.name}")
            if kept is not value:
                setattr(task, name, kept)
    check_call(task.retry_kwargs or {}, more=_ONLY_RETRY)


def _check_names(options: Mapping[str, Any], base: type) -> None:
    known = _DECORATOR_ONLY | TaskOptions.__annotations__.keys()
    for name in options:
        if name not in known and not hasattr(base, name):
            hint = suggestion(name, known)
            raise TypeError(f"@task has no option {name!r}, nor has its base{hint}")


# --- tasks that every application has, as parts of workflows are made of them


def _called(self: Task[..., Any], task: Mapping[str, Any]) -> Any:
    return maybe_signature(dict(task), self.app)


def run_map(self: Task[..., Any], task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
    """Call a task for each item."""
    call = _called(self, task)
    return [call(each) for each in it]


def run_starmap(self: Task[..., Any], task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
    """Call a task for each item, which are its arguments."""
    call = _called(self, task)
    return [call(*each) for each in it]


def run_chunks(self: Task[..., Any], task: Mapping[str, Any], it: Iterable[Any], n: int) -> Any:
    """Run a task for ``n`` items at a time, elsewhere; the chunks' results are this task's."""
    chunks = {"task": dict(task), "it": list(it), "n": n}
    return self.replace(maybe_signature({**_EMPTY, "task": CHUNKS, "kwargs": chunks}, self.app))


def accumulate(*args: Any, index: int | None = None) -> Any:
    """Return the arguments, or one of them: a group's values as one."""
    return args if index is None else args[index]


def continue_chain(
    self: Task[..., Any], *given: Any, chain: str, window: int, failed: Any = None
) -> None:
    """Go on with the links of a long chain that are kept in the store; or have them fail."""
    key = key_of(chain, window)
    stored = self.app.servers().results.get([key]).get(key)
    if stored is None:
        raise BackendError(
            f"the rest of the chain {chain} is not in the result store any more: it is kept for "
            "result_chord_expires, else result_expires seconds"
        )
    links = links_in(stored)
    if failed is None:
        raise Continued(links, given[0] if given else None)
    error = exception_from_wire(failed)
    self.request.chain = links[::-1]
    raise TaskError(str(error)) if isinstance(error, TaskPredicate) else error


_EMPTY: dict[str, Any] = {"args": [], "options": {}, "subtask_type": None, "immutable": True}


def builtin_tasks() -> list[Task[..., Any]]:
    """Return them, made anew for an application."""
    bound = {"bind": True, "typing": False}
    return [
        task_from_function(run_map, MAP, bound),
        task_from_function(run_starmap, STARMAP, bound),
        task_from_function(run_chunks, CHUNKS, bound),
        task_from_function(accumulate, ACCUMULATE, {"typing": False}),
        task_from_function(continue_chain, CONTINUE, {**bound, "throws": (Exception,)}),
    ]
