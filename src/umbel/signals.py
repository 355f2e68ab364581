"""Signals under Celery's names: functions that want to know when something happens.

    @task_failure.connect
    def tell(sender, task_id, exception, **facts): ...

A signal without receivers costs its sender one look at an empty tuple (``if signal.receivers:``).
Receivers are held weakly unless ``weak=False``; they run in the thread that sends, in the order in
which they were connected, and one that raises is logged and does not disturb the others. The tuple
of receivers is replaced, never changed, so that sending needs no lock. ``generation`` of a signal
grows with each change, for those who keep what ``receivers_for`` returned.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("umbel.signals")


@dataclass(frozen=True, slots=True)
class _Receiver:
    """One connection."""

    #: Returns the function, or None when it is gone.
    find: Callable[[], Callable[..., Any] | None]
    sender: Any
    key: Any

    def wants(self, sender: Any) -> bool:
        """Tell whether it wants what this sender sends: a task may be named by its name."""
        wanted = self.sender
        if wanted is None or wanted is sender:
            return True
        return _name(wanted) == _name(sender) and (
            isinstance(wanted, str) or isinstance(sender, str)
        )


def _name(sender: Any) -> Any:
    return sender if isinstance(sender, str) else getattr(sender, "name", sender)


class Signal:
    """One kind of event. Any thread may connect, disconnect and send."""

    __slots__ = ("_changing", "facts", "generation", "name", "receivers")

    def __init__(self, name: str, facts: Iterable[str] = ()) -> None:
        self.name = name
        #: What receivers are told, by name.
        self.facts = frozenset(facts)
        self.receivers: tuple[_Receiver, ...] = ()
        self.generation = 0
        self._changing = threading.Lock()

    @overload
    def connect(
        self,
        receiver: F,
        sender: Any = None,
        *,
        weak: bool = True,
        dispatch_uid: str | None = None,
    ) -> F: ...
    @overload
    def connect(
        self,
        receiver: None = None,
        sender: Any = None,
        *,
        weak: bool = True,
        dispatch_uid: str | None = None,
    ) -> Callable[[F], F]: ...
    def connect(
        self,
        receiver: Callable[..., Any] | None = None,
        sender: Any = None,
        *,
        weak: bool = True,
        dispatch_uid: str | None = None,
    ) -> Any:
        """Call ``receiver`` at each event, or only at those of ``sender``; also as a decorator.

        Connecting the same function, or the same ``dispatch_uid``, for the same sender again
        changes nothing.
        """
        if receiver is None:
            return lambda function: self.connect(
                function, sender, weak=weak, dispatch_uid=dispatch_uid
            )
        found = _Receiver(
            _reference(receiver, weak=weak), sender, _key(receiver, sender, dispatch_uid)
        )
        with self._changing:
            if all(each.key != found.key for each in self._living()):
                self._replace((*self._living(), found))
        return receiver

    def disconnect(
        self,
        receiver: Callable[..., Any] | None = None,
        sender: Any = None,
        *,
        dispatch_uid: str | None = None,
    ) -> bool:
        """Undo ``connect`` with the same arguments; return whether there was anything to undo."""
        key = _key(receiver, sender, dispatch_uid)
        with self._changing:
            left = tuple(each for each in self.receivers if each.key != key)
            found = len(left) < len(self.receivers)
            if found:
                self._replace(left)
        return found

    def has_receivers(self, sender: Any = None) -> bool:
        """Tell whether anybody wants what this sender sends."""
        return bool(self.receivers) and bool(self.receivers_for(sender))

    def receivers_for(self, sender: Any) -> tuple[Callable[..., Any], ...]:
        """Return the functions that want this sender's events; right while ``generation`` stays."""
        found = (each.find() for each in self.receivers if each.wants(sender))
        return tuple(function for function in found if function is not None)

    def send(self, sender: Any, **facts: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call every receiver; return each with what it returned, or the exception it raised."""
        if not self.receivers:
            return []
        return [
            (receiver, self._call(receiver, sender, facts))
            for receiver in self.receivers_for(sender)
        ]

    def _call(self, receiver: Callable[..., Any], sender: Any, facts: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **facts)
        except Exception as error:
            # An observer must not change what it observes.
            logger.exception("A receiver of %s failed: %r", self.name, receiver)
            return error

    def _living(self) -> tuple[_Receiver, ...]:
        return tuple(each for each in self.receivers if each.find() is not None)

    def _replace(self, receivers: tuple[_Receiver, ...]) -> None:
        self.receivers = receivers
        self.generation += 1

    def __repr__(self) -> str:
        """Show its name."""
        return f"<Signal: {self.name}>"


def _reference(
    receiver: Callable[..., Any], *, weak: bool
) -> Callable[[], Callable[..., Any] | None]:
    if not weak:
        return lambda: receiver
    if isinstance(receiver, MethodType):
        return weakref.WeakMethod(receiver)
    return weakref.ref(receiver)


def _key(receiver: Callable[..., Any] | None, sender: Any, dispatch_uid: str | None) -> Any:
    if dispatch_uid is not None:
        return (dispatch_uid, _identity(sender))
    if isinstance(receiver, MethodType):
        return (id(receiver.__self__), id(receiver.__func__), _identity(sender))
    return (id(receiver), _identity(sender))


def _identity(sender: Any) -> Any:
    return sender if isinstance(sender, str) else id(sender)


# --- tasks, where they are sent
before_task_publish = Signal(
    "before_task_publish",
    ("body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"),
)
after_task_publish = Signal("after_task_publish", ("body", "exchange", "routing_key", "headers"))

# --- tasks, where they run
task_received = Signal("task_received", ("request",))
task_prerun = Signal("task_prerun", ("task_id", "task", "args", "kwargs"))
task_postrun = Signal("task_postrun", ("task_id", "task", "args", "kwargs", "retval", "state"))
task_success = Signal("task_success", ("result", "runtime"))
task_retry = Signal("task_retry", ("request", "reason", "einfo"))
task_failure = Signal(
    "task_failure", ("task_id", "exception", "args", "kwargs", "traceback", "einfo")
)
task_internal_error = Signal(
    "task_internal_error",
    ("task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"),
)
task_revoked = Signal("task_revoked", ("request", "terminated", "signum", "expired"))
task_rejected = Signal("task_rejected", ("message", "exc"))
task_unknown = Signal("task_unknown", ("message", "exc", "name", "id"))

# --- programs and their processes
import_modules = Signal("import_modules")
celeryd_init = Signal("celeryd_init", ("instance", "conf", "options"))
celeryd_after_setup = Signal("celeryd_after_setup", ("instance", "conf"))
worker_init = Signal("worker_init")
worker_before_create_process = Signal("worker_before_create_process")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown", ("pid", "exitcode"))
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down", ("sig", "how", "exitcode"))
worker_shutdown = Signal("worker_shutdown")
heartbeat_sent = Signal("heartbeat_sent")
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")

# --- logging
setup_logging = Signal("setup_logging", ("loglevel", "logfile", "format", "colorize"))
after_setup_logger = Signal(
    "after_setup_logger", ("logger", "loglevel", "logfile", "format", "colorize")
)
after_setup_task_logger = Signal(
    "after_setup_task_logger", ("logger", "loglevel", "logfile", "format", "colorize")
)

# --- command line
user_preload_options = Signal("user_preload_options", ("app", "options"))

# --- never sent: there is no such pool, but programs may name them
eventlet_pool_started = Signal("eventlet_pool_started")
eventlet_pool_preshutdown = Signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = Signal("eventlet_pool_postshutdown")
eventlet_pool_apply = Signal("eventlet_pool_apply", ("target", "args", "kwargs"))
