"""The application: a registry of tasks, a configuration, and the opened servers.

Made once, when a program's modules are imported; used by all its threads and inherited by forked
children. Nothing is opened or read before it is needed. What was compiled from the configuration
(router, publisher) is kept with the snapshot it was made from and made again when that is no longer
the newest; two threads that do so at once make two equal ones, and either is right.
"""

# ruff: noqa: FBT001, FBT002 -- signatures are Celery's

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from umbel import checks, context, eager, ids, registry, result
from umbel.bridge import ResultBridge
from umbel.bridge.aio import AsyncPublisher
from umbel.calling import BoundCall, tell_publishing
from umbel.canvas.plan import Call
from umbel.canvas.signature import Signature, maybe_signature
from umbel.clock import SYSTEM_CLOCK
from umbel.config import Config, Snapshot, import_named
from umbel.control import Control
from umbel.exceptions import ImproperlyConfigured, TransportError
from umbel.message import Message
from umbel.opened import Opened, Servers, clock_of
from umbel.options import CallOptions, call_arguments, zone_of
from umbel.publisher import ONCE, Publisher, RetryPolicy
from umbel.registry import (
    AnyTask,
    TaskOptions,
    TaskRegistry,
    builtin_tasks,
    check_task,
    task_from_function,
)
from umbel.routing import Route, Router
from umbel.signals import Signal, import_modules
from umbel.task import AsyncTask, Task
from umbel.version import software
from umbel.wire.task import Request

if TYPE_CHECKING:
    from umbel.scheduling.changes import ScheduleChanges

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Task[..., Any])

#: Inside of Umbel, ``Task`` is its attribute.
TaskOf = Task

#: Names of tasks that are not here for which a BoundCall is kept.
_MOST_FOREIGN_CALLS = 1000


class Decorator(Protocol):
    """Makes a task of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BindingDecorator(Protocol):
    """Makes a task of a function whose first parameter is the task."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class Umbel:
    """A distributed application.

    ``main`` is its name, and the module's name of tasks in ``__main__``. Settings may be given by
    name, as in ``Umbel("shop", timezone="Europe/Paris")``.
    """

    #: The base of its tasks.
    Task: type[AnyTask] = TaskOf

    def __init__(  # noqa: PLR0913 -- Celery's signature
        self,
        main: str | None = None,
        broker: str | Sequence[str] | None = None,
        *,
        backend: str | None = None,
        include: Iterable[str] = (),
        config_source: object = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        task_cls: type[AnyTask] | str | None = None,
        strict_typing: bool = True,
        **settings: Any,
    ) -> None:
        self.main = main
        if task_cls is not None:
            self.Task = import_named(task_cls) if isinstance(task_cls, str) else task_cls
        self._strict_typing = strict_typing
        given = {"broker_url": broker, "result_backend": backend, "include": tuple(include)}
        self.conf = Config({**{name: value for name, value in given.items() if value}, **settings})
        self.on_configure = Signal("on_configure")
        self.on_after_configure = Signal("on_after_configure")
        self.on_after_finalize = Signal("on_after_finalize")
        self._tasks = TaskRegistry()
        self._adopted = 0
        self._discover: list[tuple[Any, str | None]] = []
        self._finalized = False
        self._foreign: dict[str, BoundCall] = {}
        self._opened = Opened()
        self.control = Control(self.servers)
        self._schedule: ScheduleChanges | None = None
        self._router: tuple[Snapshot, Router] | None = None
        self._publisher: tuple[Snapshot, Publisher] | None = None
        for task in builtin_tasks():
            self.register_task(task)
        #: Publishes for coroutines.
        self.courier = AsyncPublisher(self._publish)
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        if set_as_current:
            self.set_current()

    # --- tasks

    @property
    def tasks(self) -> TaskRegistry:
        """The registered tasks by name, shared ones included."""
        while self._adopted < len(registry.shared):
            task = registry.shared[self._adopted]
            self._adopted += 1
            self._tasks.setdefault(task.name, task)
        return self._tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> TaskOf[P, R]: ...
    @overload
    def task(
        self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]
    ) -> BindingDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = ..., **options: Unpack[TaskOptions]
    ) -> Decorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(option=…)``."""
        if function is None:
            return lambda given: self._add_function(given, options)
        return self._add_function(function, options)

    def _add_function(self, function: Any, options: Mapping[str, Any]) -> AnyTask:
        if not callable(function):
            raise TypeError(
                f"@app.task: expected a function, got {function!r} (options are given by name)"
            )
        name = options.get("name") or self.gen_task_name(function.__name__, function.__module__)
        options = {"typing": self._strict_typing, **options}
        return self.register_task(task_from_function(function, name, options, self.Task))

    def register_task(self, task: T | type[T]) -> T:
        """Add a class-based task, given as an instance or its class; return the instance."""
        instance: T = task() if isinstance(task, type) else task
        if not isinstance(instance, TaskOf):
            raise TypeError(f"register_task: expected a Task, got {instance!r}")
        if not instance.name:
            cls = type(instance)
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
        check_task(instance)
        self.tasks.register(instance)
        instance.bind_to(self)
        return instance

    def gen_task_name(self, name: str, module: str) -> str:
        """Return a task's name unless it has one: its module's and its function's."""
        return registry.default_name(name, module, self.main)

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Import ``<package>.<related_name>`` of these packages, where there is one.

        It is done when a worker starts (``import_default_modules``), or now with ``force``. Without
        packages those of Django's installed apps are taken.
        """
        if force:
            _import_related(packages, related_name)
        else:
            self._discover.append((packages, related_name))

    def import_default_modules(self) -> None:
        """Import what a worker needs: ``imports``, ``include`` and autodiscovered modules."""
        import_modules.send(self)
        for name in (*self.conf.imports, *self.conf.include):
            import_module(name)
        waiting, self._discover = self._discover, []
        for packages, related_name in waiting:
            _import_related(packages, related_name)
        self.finalize()

    def finalize(self) -> None:
        """Apply ``task_annotations`` and tell those who waited for it, once."""
        if self._finalized:
            return
        self._finalized = True
        self.on_configure.send(self)
        setting = self.conf.task_annotations
        for task in self.tasks.values():
            task.annotate(setting)
        self.on_after_configure.send(self, source=self.conf)
        self.on_after_finalize.send(self)

    # --- sending

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> result.AsyncResult[Any]:
        """Send a call by the task's name; the task need not be known here."""
        checks.check(checks.TASK, "name", name, of="send_task()")
        call = self.call_for(name)
        if call.eager and name in self.tasks:
            return eager.send(self.tasks[name], *call_arguments(args, kwargs), options)
        return call.send_with(*call_arguments(args, kwargs), options)

    def call_for(self, name: str) -> BoundCall:
        """Return what makes and sends the messages of this task, registered here or not."""
        task = self.tasks.get(name)
        if task is not None:
            return task.bound_call(self)
        call = self._foreign.get(name)
        if call is None or call.snapshot is not self.conf.snapshot:
            call = BoundCall(self, name, None, None)
            if len(self._foreign) >= _MOST_FOREIGN_CALLS:
                self._foreign.clear()
            self._foreign[name] = call
        return call

    def follow_up(self, planned: Call, request: Request) -> Message:
        """Return the message of a call that follows from a request.

        What its route leads through exists on return, as far as that is possible.
        """
        options = {"reply_to": request.reply_to, **_stamps(request), **planned.options}
        call = self.call_for(planned.task)
        message, route = call.message(planned.args, planned.kwargs, options, request=request)
        tell_publishing(message, (planned.args, planned.kwargs), declare=route.topology.queues)
        with suppress(TransportError):  # if that matters, its commit will be refused, and say so
            self.publisher.declare(route)
        return message

    @property
    def schedule(self) -> ScheduleChanges:
        """Periodic tasks: what is sent when, and changing it at run time."""
        found = self._schedule
        if found is None:  # few programs have any: `import umbel` loads nothing of it
            made = import_module("umbel.scheduling.changes").ScheduleChanges(self)
            found = self._schedule = cast("ScheduleChanges", made)
        return found

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Declare that a task, or a call as a signature, is sent by this schedule; return its name.

        Options of apply_async and an entry's rules (``missed``, ``overlap``, …) may be given.
        """
        return self.schedule.declare(schedule, sig, args, kwargs, name, options)

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """Return a signature of this application."""
        made: Signature[Any] = maybe_signature(Signature(*args, app=self, **kwargs), self)
        return made

    def AsyncResult(self, task_id: str, **options: Any) -> result.AsyncResult[Any]:
        """Return the result object of a task sent earlier, maybe elsewhere."""
        return result.AsyncResult(task_id, app=self, **options)

    @property
    def GroupResult(self) -> result.GroupResults:
        """Makes result objects of groups, and restores saved ones."""
        return result.GroupResults(self)

    def ResultSet(self, results: Iterable[result.AsyncResult[R]] = ()) -> result.ResultSet[R]:
        """Return several results as one object."""
        return result.ResultSet(results, app=self)

    # --- configuration

    def config_from_object(
        self,
        target: object,
        silent: bool = False,
        force: bool = False,
        namespace: str | None = None,
    ) -> None:
        """Read settings from a module, class, dict or object, or from the dotted name of one.

        A name is imported when the first setting is asked for, unless ``force``; with ``silent``
        a module need not exist.
        """
        self.conf.load_object(target, namespace=namespace, force=force, silent=silent)

    def config_from_envvar(
        self,
        variable: str,
        silent: bool = False,
        force: bool = False,
    ) -> bool:
        """Read settings from the module that an environment variable names."""
        name = os.environ.get(variable)
        if not name:
            if silent:
                return False
            raise ImproperlyConfigured(f"the variable {variable} is not set: it names a module")
        self.config_from_object(name, silent, force)
        return True

    def add_defaults(self, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Set settings that everything else may override."""
        self.conf.set_layer(
            "defaults", values() if callable(values) else values, source="add_defaults"
        )

    def bugreport(self) -> str:
        """Return versions and the settings that were set, secrets masked, as text."""
        facts = {**software(), "application": self.main or "(no name)"}
        lines = [f"{name}: {value}" for name, value in facts.items()]
        return "\n".join([*lines, "", self.conf.humanize(), ""])

    # --- what is made of the configuration

    @property
    def router(self) -> Router:
        """Where calls go, under the newest configuration."""
        made, snapshot = self._router, self.conf.current()
        if made is None or made[0] is not snapshot:
            made = self._router = (snapshot, Router(snapshot.values))
        return made[1]

    @property
    def publisher(self) -> Publisher:
        """What publishes, under the newest configuration."""
        made, snapshot = self._publisher, self.conf.current()
        if made is None or made[0] is not snapshot:
            values = snapshot.values
            policy = RetryPolicy.from_mapping(values["task_publish_retry_policy"])
            publisher = Publisher(
                self.servers().broker.transport,
                timeout=values["task_publish_timeout"],
                largest=values["task_max_message_size"],
                policy=policy if values["task_publish_retry"] else ONCE,
                clock=clock_of(values),
            )
            made = self._publisher = (snapshot, publisher)
        return made[1]

    def _publish(
        self,
        messages: Sequence[Message],
        routes: Sequence[Route] = (),
        *,
        deadline_in: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.publisher.publish(messages, routes, deadline_in=deadline_in, policy=policy)

    @property
    def timezone(self) -> dt.tzinfo:
        """The zone of naive times, as the settings ``timezone`` and ``enable_utc`` say."""
        zone = zone_of(self.conf.current().values)
        return zone or self.now().tzinfo or dt.UTC

    def now(self) -> dt.datetime:
        """Return the time in the application's zone."""
        zone = zone_of(self.conf.current().values)
        return dt.datetime.fromtimestamp(SYSTEM_CLOCK.now(), dt.UTC).astimezone(zone)

    @property
    def origin(self) -> str:
        """Who sends, as headers say it."""
        return ids.origin()

    def servers(self) -> Servers:
        """Return the opened servers; opens them first, which connects to nothing yet."""
        return self._opened.servers(self.conf.current().values)

    @property
    def bridge(self) -> ResultBridge:
        """What waits for results."""
        return self._opened.bridge(self.conf.current().values)

    def close(self) -> None:
        """Close connections. The next use opens them again."""
        self._opened.close()
        self._publisher = None
        self._foreign.clear()
        for task in self.tasks.values():
            task.forget_call()

    def __enter__(self) -> Self:
        """Use it for the length of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close connections."""
        self.close()

    # --- what is current

    def set_current(self) -> None:
        """Make this the current application."""
        context.set_current_app(self)

    set_default = set_current

    @property
    def current_task(self) -> AnyTask | None:
        """The task that runs here, or None."""
        request = context.current_request.get()
        return None if request is None else self.tasks.get(request.task or "")

    @property
    def current_worker_task(self) -> AnyTask | None:
        """The task that runs here, or None."""
        return self.current_task

    def __repr__(self) -> str:
        """Show its name."""
        return f"<Umbel {self.main or '?'}>"


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BindingDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **options: Unpack[TaskOptions]) -> Decorator: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task that every application has; its calls go through the current one."""
    if function is None:
        return lambda given: _share(given, options)
    return _share(function, options)


def _share(function: Callable[..., Any], options: Mapping[str, Any]) -> AnyTask:
    app = context.current_app_or_none()
    name = options.get("name") or registry.default_name(
        function.__name__, function.__module__, app.main if app else None
    )
    task = task_from_function(function, name, options)
    check_task(task)
    registry.shared.append(task)
    return task


def _stamps(request: Request) -> dict[str, Any]:
    if not request.stamped_headers:
        return {}
    return {"stamped_headers": request.stamped_headers, "stamps": request.stamps}


def _import_related(packages: Any, related_name: str | None) -> None:
    from importlib.util import find_spec  # noqa: PLC0415 -- only workers get here

    if callable(packages):
        packages = packages()
    for package in _django_apps() if packages is None else packages:
        name = f"{package}.{related_name}" if related_name else package
        if related_name is None or find_spec(name) is not None:
            import_module(name)


def _django_apps() -> list[str]:
    found = sys.modules.get("django.apps")
    return [each.name for each in found.apps.get_app_configs()] if found else []
