"""What the store knows about a task, asked when it is wanted and kept when it is final."""

# ruff: noqa: FBT001, FBT002, ARG002 -- the signatures are Celery's, with what has no meaning here

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from umbel import exceptions, states
from umbel.bridge import ResultBridge
from umbel.config import Config
from umbel.context import current_app
from umbel.control.revoking import revoke
from umbel.opened import Servers
from umbel.result.gathering import Meta
from umbel.result.states import outcome
from umbel.servers.seams import ResultStore

R_co = TypeVar("R_co", covariant=True)


class ResultApp(Protocol):
    """What results need of their application."""

    conf: Config

    @property
    def bridge(self) -> ResultBridge:
        """What waits."""
        ...

    def servers(self) -> Servers:
        """Return the opened servers."""
        ...


class ResultBase:
    """What is common to results of tasks and of groups."""

    __slots__ = ("__weakref__", "_app", "parent")

    TimeoutError: ClassVar = exceptions.TimeoutError
    supports_native_join: ClassVar = True

    def __init__(self, app: ResultApp | None, parent: ResultBase | None) -> None:
        self._app = app
        #: The result of what ran before this, in a chain: of a task or of a group.
        self.parent: Any = parent

    @property
    def app(self) -> ResultApp:
        """The application it belongs to; the current one unless it was named."""
        return self._app or current_app()

    @property
    def backend(self) -> ResultStore:
        """The store in which results are."""
        return self.app.bridge.store

    def leaves(self) -> Iterable[TaskRecord[Any]]:
        """Return the results of single tasks in this one."""
        raise NotImplementedError

    def ancestors(self) -> Iterator[ResultBase]:
        """Yield what came before this in a chain, the nearest first."""
        node: ResultBase | None = self.parent
        while node is not None:
            yield node
            node = node.parent

    def forget(self) -> None:
        """Delete the result, and those of its parents, from the store."""
        forgotten = [leaf for each in (self, *self.ancestors()) for leaf in each.leaves()]
        for leaf in forgotten:
            leaf.drop()
        self.backend.forget(list({leaf.id: None for leaf in forgotten}))

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
        *,
        tree: bool = False,
    ) -> None:
        """Call the task off: a worker that receives it will not run it, and stores REVOKED.

        The revocation is kept in the ledger, for 30 days, so it survives restarts; it is there on
        return, so there is no reply to wait for. With ``terminate`` what runs is ended too, see
        ``app.control.revoke``.

        With ``tree`` that goes for the whole workflow: for what comes before it, and for all that
        any of these tasks sent or will send.
        """
        given = [leaf.id for each in (self, *self.ancestors()) for leaf in each.leaves()]
        revoke(
            self.app.servers(),
            (leaf.id for leaf in (parts_of(self) if tree else self.leaves())),
            roots=given if tree else (),
            terminate=terminate,
            signal=signal,
        )


class TaskRecord(ResultBase, Generic[R_co]):
    """What is known about one task."""

    __slots__ = ("_meta", "_name", "id", "ignored")

    def __init__(
        self,
        id: str,
        *,
        app: ResultApp | None = None,
        parent: ResultBase | None = None,
        task_name: str | None = None,
    ) -> None:
        given: Any = id
        if not isinstance(given, str) or not id:
            raise ValueError(f"expected the id of a task, a text, got {given!r}")
        self._app = app
        self.parent = parent
        self.id = id
        #: No result will be stored; ``get`` returns None at once.
        self.ignored = False
        self._meta: Meta | None = None
        self._name = task_name

    def is_open(self) -> bool:
        """Tell whether there is something to wait for: a result is stored, and not yet here."""
        return self._meta is None and not self.ignored

    def value(self) -> Any:
        """Return the value, as far as it is known."""
        return None if self.ignored else outcome(self.meta())

    def keep(self, meta: Meta) -> None:
        """Remember a meta, if it is final."""
        if meta["status"] in states.READY_STATES:
            self._meta = meta

    def drop(self) -> None:
        """Remember nothing."""
        self._meta = None

    def meta(self) -> Meta:
        """Return what the store has: the meta with Celery's keys; PENDING if it has nothing."""
        if self._meta is not None:
            return self._meta
        bridge = self.app.bridge
        stored = bridge.store.get((self.id,)).get(self.id)
        if stored is None:
            return {"status": states.PENDING, "result": None}
        meta = bridge.decode(stored)
        self.keep(meta)
        return meta

    def leaves(self) -> Iterable[TaskRecord[Any]]:
        """Return itself."""
        return (self,)

    def exists(self) -> bool:
        """Tell whether the store knows anything of the task."""
        return self.state != states.PENDING

    @property
    def state(self) -> str:
        """Its state; PENDING also for a task that was never sent."""
        status: str = self.meta()["status"]
        return status

    status = state

    @property
    def result(self) -> Any:
        """What it returned or raised, or the meta of a custom state."""
        return outcome(self.meta())

    info = result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback of the exception, as text."""
        return self.meta().get("traceback")

    def ready(self) -> bool:
        """Tell whether it has succeeded, failed or been revoked."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Tell whether it returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Tell whether it raised."""
        return self.state == states.FAILURE

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> R_co:
        """Return the result as it is now; raise it if it is the exception of a failed task."""
        meta = self.meta()
        value = outcome(meta)
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            raise value
        if callback is not None:
            callback(self.id, value)
        result: R_co = value
        return result

    maybe_reraise = maybe_throw

    @property
    def task_id(self) -> str:
        """Its id."""
        return self.id

    @property
    def date_done(self) -> dt.datetime | None:
        """When it became ready."""
        text = self.meta().get("date_done")
        return dt.datetime.fromisoformat(text) if isinstance(text, str) else text

    @property
    def name(self) -> str | None:
        """The task's name. It and the following are stored with ``result_extended``."""
        name: str | None = self.meta().get("name", self._name)
        return name

    @property
    def args(self) -> list[Any] | None:
        """The call's arguments."""
        return self.meta().get("args")

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The call's keyword arguments."""
        return self.meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran it."""
        return self.meta().get("worker")

    @property
    def retries(self) -> int | None:
        """How many attempts failed before this one."""
        return self.meta().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue it came from."""
        return self.meta().get("queue")

    def __eq__(self, other: object) -> bool:
        """Compare ids; a text is compared as an id."""
        if isinstance(other, TaskRecord):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        """Hash the id."""
        return hash(self.id)

    def __str__(self) -> str:
        """Return the id."""
        return self.id

    def __repr__(self) -> str:
        """Name the class and the id."""
        return f"<{type(self).__name__}: {self.id}>"


def parts_of(result: ResultBase) -> Iterator[TaskRecord[Any]]:
    """Yield the tasks of a workflow that are known: what came before this, and all that came of it.

    Level by level, each asked for in one round trip.
    """
    seen: set[str] = set()
    level: list[Any] = [result, *result.ancestors()]
    while level:
        leaves = {leaf.id: leaf for each in level for leaf in each.leaves() if leaf.id not in seen}
        seen.update(leaves)
        load(leaves.values())
        yield from leaves.values()
        sent = [child for leaf in _ready(leaves.values()) for child in leaf.children or ()]
        level = [part for child in sent for part in (child, *child.ancestors())]


def _ready(tasks: Iterable[Any]) -> Iterator[Any]:
    return (each for each in tasks if not each.is_open())


def load(results: Iterable[TaskRecord[Any]]) -> None:
    """Ask the store about all that are not known to be final, in one round trip."""
    wanted: dict[str, list[TaskRecord[Any]]] = {}
    for each in results:
        if each.is_open():
            wanted.setdefault(each.id, []).append(each)
    if not wanted:
        return
    bridge = next(iter(wanted.values()))[0].app.bridge
    for task_id, stored in bridge.store.get(list(wanted)).items():
        meta = bridge.decode(stored)
        for each in wanted[task_id]:
            each.keep(meta)
