"""Calls that wait on a ``memory://`` broker, and assertions about them.

    assert_enqueued(app, send_mail, args=("ada@example.org",), countdown=3600)
    refute_enqueued(app, "shop.tasks.charge")

They look and take nothing away. What a worker has received already waits no more.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from umbel.app import Umbel
from umbel.exceptions import (
    ImproperlyConfigured,
    InvalidTaskError,
    SerializationError,
)
from umbel.message import Message
from umbel.opened import clock_of
from umbel.options import zone_of
from umbel.serializers import CONTENT_TYPES, accepted, get
from umbel.servers.memory import MemoryTransport
from umbel.task import Task
from umbel.wire.task import Request, decode

#: Seconds by which a due time may differ from the one asked for: tests take time themselves.
TOLERANCE = 1.0
#: Characters of one call in a failure's message.
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as it was sent. What cannot be decoded has no arguments."""

    task: str
    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str
    priority: int
    #: How often it was tried before.
    retries: int
    #: Wall time at which it is due; None = at once.
    due_at: float | None
    #: Wall time after which it is not run any more; None = never.
    expires_at: float | None
    #: The sender's own headers.
    headers: Mapping[str, Any]

    def __str__(self) -> str:
        """Show it as Python would write the call."""
        given = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        text = f"{self.task}({', '.join(given)})"
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Criteria(TypedDict, total=False):
    """What a call must be like. Arguments are compared as they travel: a tuple equals its list."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    priority: int
    #: It is due in so many seconds, give or take one.
    countdown: float
    #: It is due then, give or take a second.
    eta: dt.datetime


def enqueued(
    app: Umbel, task: Task[..., Any] | str | None = None, **criteria: Unpack[Criteria]
) -> list[Call]:
    """Return the calls that wait, delayed ones too: first what is ready, as it will be received."""
    name = task.name if isinstance(task, Task) else task
    wanted = _Wanted(app, criteria)
    return [call for call in waiting(app) if name in (None, call.task) and wanted.fits(call)]


def assert_enqueued(
    app: Umbel,
    task: Task[..., Any] | str | None = None,
    *,
    count: int | None = None,
    **criteria: Unpack[Criteria],
) -> Call:
    """Fail unless such a call waits, or ``count`` of them; return the first."""
    __tracebackhide__ = True
    found = enqueued(app, task, **criteria)
    if not found or count not in (None, len(found)):
        expected = "a call" if count is None else f"{count} calls"
        raise AssertionError(
            f"expected {expected} of {_described(task, criteria)}, found {len(found) or 'none'}; "
            f"{_what_waits(app)}"
        )
    return found[0]


def refute_enqueued(
    app: Umbel, task: Task[..., Any] | str | None = None, **criteria: Unpack[Criteria]
) -> None:
    """Fail if such a call waits."""
    __tracebackhide__ = True
    found = enqueued(app, task, **criteria)
    if found:
        raise AssertionError(
            f"expected no call of {_described(task, criteria)}, found {len(found)}; "
            f"{_what_waits(app)}"
        )


def waiting(app: Umbel) -> list[Call]:
    """Return all calls that wait in the application's memory server."""
    return [call_of(message, queue) for queue, message in memory_transport(app).waiting()]


def memory_transport(app: Umbel) -> MemoryTransport:
    """Return the application's transport; raises ImproperlyConfigured if it is not in memory."""
    broker = app.servers().broker
    if not isinstance(broker.transport, MemoryTransport):
        raise ImproperlyConfigured(
            f"this needs the broker memory://, not {broker.display_url}: take the fixture "
            "umbel_app, or umbel.testing.in_memory(app)"
        )
    return broker.transport


def call_of(message: Message, queue: str) -> Call:
    """Return the call that a message carries."""
    try:
        request = decode(message, accepted(CONTENT_TYPES))
    except (SerializationError, InvalidTaskError):
        request = Request(task=message.headers.get("task"), args=[], kwargs={})
    return Call(
        task=request.task or "?",
        id=message.id,
        args=list(request.args),
        kwargs=dict(request.kwargs),
        queue=queue,
        priority=message.priority,
        retries=request.retries,
        due_at=message.not_before or None,
        expires_at=message.expires_at,
        headers=request.headers or {},
    )


class _Wanted:
    """Criteria, as calls are compared with them."""

    def __init__(self, app: Umbel, criteria: Mapping[str, Any]) -> None:
        if unknown := criteria.keys() - Criteria.__annotations__.keys():
            known = ", ".join(Criteria.__annotations__)
            raise TypeError(f"there is no criterion {min(unknown)!r}: expected one of {known}")
        self._now = _now(app)
        self._same = {
            name: value for name, value in criteria.items() if name in ("queue", "priority")
        }
        if "args" in criteria:
            self._same["args"] = [_as_sent(value) for value in criteria["args"]]
        if "kwargs" in criteria:
            self._same["kwargs"] = {
                name: _as_sent(value) for name, value in criteria["kwargs"].items()
            }
        self._due_at: list[float] = []
        if "countdown" in criteria:
            self._due_at.append(self._now + criteria["countdown"])
        if "eta" in criteria:
            eta: dt.datetime = criteria["eta"]
            zone = zone_of(app.conf.current().values)
            self._due_at.append((eta if eta.tzinfo else eta.replace(tzinfo=zone)).timestamp())

    def fits(self, call: Call) -> bool:
        due_at = max(call.due_at or 0.0, self._now)
        return all(getattr(call, name) == value for name, value in self._same.items()) and all(
            math.isclose(due_at, wanted, rel_tol=0, abs_tol=TOLERANCE) for wanted in self._due_at
        )


def _as_sent(value: Any) -> Any:
    """Return a value as it arrives; one that cannot travel (a matcher) is compared as it is."""
    codec = get("json")
    try:
        return codec.loads(codec.dumps(value))
    except SerializationError:
        return value


def _now(app: Umbel) -> float:
    return clock_of(app.conf.current().values).now()


def _described(task: Task[..., Any] | str | None, criteria: Mapping[str, Any]) -> str:
    name = task.name if isinstance(task, Task) else task or "any task"
    wanted = ", ".join(f"{key}={value!r}" for key, value in criteria.items())
    return f"{name} with {wanted}" if wanted else name


def _what_waits(app: Umbel) -> str:
    calls = waiting(app)
    if calls:
        now = _now(app)
        lines = "\n".join(f"  {call}{_where(call, now)}" for call in calls)
        return f"what waits is\n{lines}"
    if app.conf.task_always_eager:
        return "nothing waits: task_always_eager is on, so calls run where they are made"
    return "nothing waits"


def _where(call: Call, now: float) -> str:
    due = f", due in {call.due_at - now:g} s" if call.due_at and call.due_at > now else ""
    priority = f", priority {call.priority}" if call.priority else ""
    return f" in {call.queue}{priority}{due}"
