"""Which application is current, and which task runs here.

The current application belongs to the process: the one made last, unless ``set_current_app`` or
``set_as_current=False`` says otherwise. It serves whatever is made without naming an application
(``shared_task``, ``AsyncResult(id)``, a signature that came in a message).

What runs here is kept in context variables, so that it is right in threads and in coroutines alike.
Whoever runs a task sets ``current_request`` around it; everything else only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, Unpack

from umbel.bridge import ResultBridge
from umbel.bridge.aio import AsyncPublisher
from umbel.config import Config
from umbel.exceptions import ImproperlyConfigured
from umbel.message import Message
from umbel.opened import Servers
from umbel.options import CallOptions
from umbel.routing import Route, Router
from umbel.wire.task import Request


class Sender(Protocol):
    """What publishes (see ``umbel.publisher``)."""

    def publish(
        self,
        messages: Sequence[Message],
        routes: Sequence[Route] = (),
        *,
        deadline_in: float | None = None,
        policy: Any = None,
    ) -> None:
        """Store all messages, or raise."""
        ...

    def declare(self, route: Route) -> None:
        """Make what a route leads through exist."""
        ...


class Caller(Protocol):
    """What makes the messages of one task (see ``umbel.calling.BoundCall``)."""

    #: The task, if it is here.
    task: Any
    #: Its calls have to go through its ``apply_async``.
    takes_detour: bool

    @property
    def is_uniform(self) -> bool:
        """Whether what options say is the same for all its calls, and they are shown to nobody."""
        ...

    def members(
        self,
        calls: Sequence[tuple[Sequence[Any], dict[str, Any]]],
        options: Mapping[str, Any],
        *,
        group_id: str,
        first: int,
        request: Request | None,
    ) -> tuple[list[Message], Route]:
        """Return the messages of members of a group, if it is uniform, and where they go."""
        ...

    def results(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[Any]:
        """Return the result objects of calls with these options."""
        ...

    def prepared(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        request: Request | None,
    ) -> tuple[Message, Route]:
        """Return the message of a call made here, and where it goes."""
        ...

    def result(self, task_id: str, options: Mapping[str, Any]) -> Any:
        """Return the result object of a call with these options."""
        ...


class Application(Protocol):
    """What the lower parts need of an application (see ``umbel.app``)."""

    main: str | None
    conf: Config
    #: Publishes for coroutines.
    courier: AsyncPublisher

    @property
    def bridge(self) -> ResultBridge:
        """What waits for results."""
        ...

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The registered tasks by name."""
        ...

    @property
    def publisher(self) -> Sender:
        """What publishes."""
        ...

    @property
    def router(self) -> Router:
        """What routes."""
        ...

    @property
    def origin(self) -> str:
        """Who sends, for headers."""
        ...

    def servers(self) -> Servers:
        """Return the opened servers."""
        ...

    def call_for(self, name: str) -> Caller:
        """Return what makes the messages of the task of this name, registered or not."""
        ...

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Send a task by its name; return its result object."""
        ...


#: The request that runs here; None outside of tasks.
current_request: ContextVar[Request | None] = ContextVar("umbel.current_request", default=None)

#: Stores a state of the running task: ``(request, state, meta)``. A worker sets it, so that
#: progress is fenced like all else; None = write straight to the result store.
Reporter = Callable[[Request, str, Any], None]
reporter: ContextVar[Reporter | None] = ContextVar("umbel.reporter", default=None)

_current: Application | None = None


def current_app() -> Application:
    """Return the current application; raises ImproperlyConfigured when there is none."""
    if _current is None:
        raise ImproperlyConfigured("there is no application yet: make one with Umbel('name')")
    return _current


def current_app_or_none() -> Application | None:
    """Return the current application, if there is one."""
    return _current


def set_current_app(app: Application | None) -> None:
    """Make this the current application."""
    global _current  # noqa: PLW0603 -- the one application of the process, by design
    _current = app


def current_task() -> Any:
    """Return the task that runs here, or None."""
    request = current_request.get()
    if request is None or _current is None:
        return None
    return _current.tasks.get(request.task or "")
