"""What became of a call: ``AsyncResult``, and sets of them.

A result object is an id and an application. It asks the application's result store when it is
asked, and keeps what is final, so that a finished task costs one question. All waiting goes through
the application's ``ResultBridge``; no object here is registered anywhere, none must be closed.

Exceptions of tasks are made anew from the stored meta each time they are raised or looked at. A
kept one would keep its traceback, and with it the frames of every caller that ever caught it.
"""

# ruff: noqa: FBT001, FBT002, ARG002 -- the signatures are Celery's, with what has no meaning here

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Generic

from umbel.bridge.callbacks import tell
from umbel.context import current_app
from umbel.exceptions import IncompleteStream
from umbel.result.gathering import Completions, Gathering, Meta, agather, gather
from umbel.result.graph import ResultGraph
from umbel.result.guard import assert_will_not_block
from umbel.result.record import R_co, ResultApp, ResultBase, TaskRecord, load
from umbel.result.states import Changes
from umbel.wire.result import decode_group, encode_group, group_tuple, task_tuple


class AsyncResult(TaskRecord[R_co]):
    """The result of one task: its state, and its value when there is one."""

    __slots__ = ()

    # --- waiting

    def get(  # noqa: PLR0913 -- Celery's signature
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[Meta], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R_co:
        """Wait for the task; return what it returned, or raise what it raised.

        With ``propagate=False`` its exception is returned. ``follow_parents`` raises the exception
        of an earlier task of the chain as soon as it is known. ``callback(id, value)`` is called
        before the return, ``on_message(meta)`` with every state as it comes. Nothing is polled, so
        ``interval`` and ``on_interval`` have no meaning; nor has ``no_ack``.
        Raises TimeoutError; RuntimeError when called in a task (see ``allow_join_result``).
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if self._meta is None:
            if disable_sync_subtasks:
                assert_will_not_block()
            if self.parent is None and on_message is None:
                bridge = self.app.bridge
                self.keep(bridge.decode(bridge.wait((self.id,), timeout=timeout)[self.id]))
            else:
                gather(self._gathering(on_message, propagate and follow_parents), timeout)
        return self.maybe_throw(propagate=propagate, callback=callback)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 -- get's; its error names the task
        propagate: bool = True,
        *,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[Meta], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R_co:
        """Wait like ``get``, without blocking the event loop. Cancelling it ends only the wait."""
        if self.ignored:
            return None  # type: ignore[return-value]
        if self._meta is None:
            if disable_sync_subtasks:
                assert_will_not_block()
            await agather(self._gathering(on_message, propagate and follow_parents), timeout)
        return self.maybe_throw(propagate=propagate, callback=callback)

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait without blocking the event loop."""
        return self.aget().__await__()

    def follow(self, timeout: float | None = None) -> Changes:
        """Return the task's states as they come, for ``for`` or ``async for``; the last is final.

        Begins with the state that is stored. Of several in quick succession only the last may be
        seen. Raises TimeoutError when the task is not ready after ``timeout`` seconds.
        """
        return Changes(self.id, self._meta or self.app.bridge, timeout)

    def then(
        self,
        callback: Callable[[AsyncResult[R_co]], object],
        on_error: Callable[[BaseException], object] | None = None,
    ) -> None:
        """Call ``callback(result)`` when the task is ready, in a background thread. Must be quick.

        ``on_error`` is told why there will be no answer: the store failed or was closed.
        """

        def answered(metas: Mapping[str, bytes]) -> None:
            self.keep(self.app.bridge.decode(metas[self.id]))
            callback(self)

        if self._meta is not None:
            callback(self)
        else:
            tell(self.app.bridge, (self.id,), answered, on_error or _nothing)

    def _gathering(
        self, on_message: Callable[[Meta], object] | None, follow_parents: bool
    ) -> Gathering:
        parents = self._unfinished_parents() if follow_parents else ()
        return Gathering(
            self.app.bridge,
            (self,),
            on_message=on_message,
            beside=parents,
            on_beside=AsyncResult.maybe_throw,
        )

    def _unfinished_parents(self) -> list[AsyncResult[Any]]:
        """Return the earlier tasks of the chain. Not groups: a chord's body tells what failed."""
        parents = [each for each in self.ancestors() if isinstance(each, AsyncResult)]
        for each in parents:
            if not each.is_open():
                each.maybe_throw()
        return [each for each in parents if each.is_open()]

    # --- what it sent

    @property
    def children(self) -> list[Any] | None:
        """Results of the tasks that it sent; None as long as that is not known."""
        stored = self.meta().get("children")
        return None if stored is None else [result_from_tuple(each, self._app) for each in stored]

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[ResultBase | None, Any]]:
        """Yield ``(parent, result)`` of this task and all that came of it, level by level.

        Raises IncompleteStream at one that is not ready, unless ``intermediate``.
        """
        level: list[tuple[ResultBase | None, Any]] = [(None, self)]
        seen: set[str] = set()
        while level:
            load(leaf for _, node in level for leaf in node.leaves())
            following: list[tuple[ResultBase | None, Any]] = []
            for parent, node in level:
                seen.add(node.id)
                yield parent, node
                if node.ready():
                    # A retried task is listed as its own child.
                    sent = [each for each in node.children or () if each.id not in seen]
                    following += [(node, each) for each in sent]
                elif not intermediate:
                    raise IncompleteStream
            level = following

    @property
    def graph(self) -> ResultGraph:
        """What came of this task so far; ``graph.to_dot()`` draws it."""
        return ResultGraph(self.iterdeps(intermediate=True))

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Yield ``(result, value)`` of this task and all that came of it, waiting for each."""
        for _, result in self.iterdeps(intermediate):
            yield result, result.get(**options)

    def get_leaf(self) -> Any:
        """Return the value of the last task that came of this one."""
        return deque(self.collect(), maxlen=1)[0][1]

    # --- as data

    def as_tuple(self) -> Any:
        """Return the result tuple that ``result_from_tuple`` reads."""
        return _as_tuple(self)

    def as_list(self) -> list[str]:
        """Return its id and those of its parents."""
        return [self.id, *(str(getattr(each, "id", "")) for each in self.ancestors())]

    def __reduce__(self) -> Any:
        """Travel without the application: it is the current one where it arrives."""
        return result_from_tuple, (self.as_tuple(),)


class ResultSet(ResultBase, Generic[R_co]):
    """Several results, of tasks or of groups."""

    __slots__ = ("results",)

    def __init__(
        self,
        results: Iterable[AsyncResult[R_co]] = (),
        *,
        app: ResultApp | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        super().__init__(app, parent)
        self.results = list(results)
        _check(self.results)

    # --- waiting

    def get(  # noqa: PLR0913 -- Celery's signature
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[R_co]:
        """Wait for all; return their values in order, those of groups as lists.

        Raises the first exception that comes, at once, unless ``propagate=False``; then it is in
        the list. ``callback(id, value)`` is called for each task as it becomes ready.
        """
        react = partial(AsyncResult.maybe_throw, propagate=propagate, callback=callback)
        gather(self._gathering(react, on_message, guarded=disable_sync_subtasks), timeout)
        return self.value()

    join_native = get

    def join(  # noqa: PLR0913 -- Celery's signature
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[R_co]:
        """Wait like ``get``, but raise and call back in the order of the results."""
        waiting = deque(self.leaves())

        def react(_: object) -> None:
            while waiting and not waiting[0].is_open():
                waiting.popleft().maybe_throw(propagate, callback)

        gather(self._gathering(react, on_message, guarded=disable_sync_subtasks), timeout)
        return self.value()

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 -- get's; its error names what is missing
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[Meta], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R_co]:
        """Wait like ``get``, without blocking the event loop."""
        react = partial(AsyncResult.maybe_throw, propagate=propagate, callback=callback)
        await agather(self._gathering(react, on_message, guarded=disable_sync_subtasks), timeout)
        return self.value()

    def __await__(self) -> Generator[Any, None, list[R_co]]:
        """Wait without blocking the event loop."""
        return self.aget().__await__()

    def _gathering(
        self,
        react: Callable[[AsyncResult[Any]], object] | None,
        on_message: Callable[[Meta], object] | None,
        *,
        guarded: bool,
    ) -> Gathering:
        leaves = list(self.leaves())
        unknown = [each for each in leaves if each.is_open()]
        if unknown and guarded:
            assert_will_not_block()
        if react is not None:
            for each in leaves:
                if not each.is_open():
                    react(each)
        return Gathering(self.app.bridge, unknown, on_final=react, on_message=on_message)

    def as_completed(self, timeout: float | None = None) -> Completions[AsyncResult[R_co]]:
        """Return the tasks' results as they become ready, for ``for`` or ``async for``."""
        gathering = self._gathering(None, None, guarded=True)
        known = [each for each in self.leaves() if not each.is_open()]
        return Completions(gathering, known, timeout)

    def __aiter__(self) -> AsyncIterator[AsyncResult[R_co]]:
        """Yield the tasks' results as they become ready."""
        return self.as_completed().__aiter__()

    def iterate(self, timeout: float | None = None, propagate: bool = True) -> Iterator[R_co]:
        """Yield the tasks' values as they become ready."""
        for each in self.as_completed(timeout):
            yield each.maybe_throw(propagate)

    def iter_native(self, timeout: float | None = None, **_: Any) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of the tasks as they become ready."""
        for each in self.as_completed(timeout):
            yield each.id, each.meta()

    def then(
        self,
        callback: Callable[[Any], object],
        on_error: Callable[[BaseException], object] | None = None,
    ) -> None:
        """Call ``callback(self)`` when all are ready, in a background thread. Must be quick."""
        leaves = {each.id: each for each in self.leaves() if each.is_open()}
        bridge = self.app.bridge

        def answered(metas: Mapping[str, bytes]) -> None:
            for task_id, stored in metas.items():
                leaves[task_id].keep(bridge.decode(stored))
            callback(self)

        if leaves:
            tell(bridge, tuple(leaves), answered, on_error or _nothing)
        else:
            callback(self)

    # --- what is known

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        """Yield the results of single tasks, in order, those in groups of groups too."""
        waiting: list[Any] = self.results[::-1]
        while waiting:
            each = waiting.pop()
            if isinstance(each, ResultSet):
                waiting += each.results[::-1]
            else:
                yield each

    def _known(self) -> list[AsyncResult[Any]]:
        """Return the leaves, having asked the store about them, all at once."""
        leaves = list(self.leaves())
        load(leaves)
        return leaves

    def value(self) -> list[R_co]:
        """Return the values in order, as far as they are known."""
        return [each.value() for each in self.results]

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> None:
        """Raise the first exception in order, if there is one."""
        for each in self._known():
            each.maybe_throw(propagate, callback)

    maybe_reraise = maybe_throw

    def ready(self) -> bool:
        """Tell whether all are ready."""
        return not any(each.is_open() for each in self._known())

    def waiting(self) -> bool:
        """Tell whether any is not ready."""
        return not self.ready()

    def successful(self) -> bool:
        """Tell whether all have succeeded."""
        return self.completed_count() == len(list(self.leaves()))

    def failed(self) -> bool:
        """Tell whether any has failed."""
        return any(not each.is_open() and each.failed() for each in self._known())

    def completed_count(self) -> int:
        """Return how many have succeeded."""
        return sum(not each.is_open() and each.successful() for each in self._known())

    # --- as a collection

    def add(self, result: AsyncResult[Any]) -> None:
        """Add a result, unless it is there."""
        self.update((result,))

    def update(self, results: Iterable[AsyncResult[Any]]) -> None:
        """Add results that are not there."""
        self.results = list(dict.fromkeys((*self.results, *results)))
        _check(self.results)

    def remove(self, result: AsyncResult[Any] | str) -> None:
        """Remove a result; raises KeyError."""
        if result not in self.results:
            raise KeyError(result)
        self.discard(result)

    def discard(self, result: AsyncResult[Any] | str) -> None:
        """Remove a result if it is there."""
        self.results = [each for each in self.results if each != result]

    def clear(self) -> None:
        """Remove all."""
        self.results = []

    def __iter__(self) -> Iterator[AsyncResult[R_co]]:
        """Yield the results in order, without waiting."""
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[R_co]:
        """Return one result."""
        return self.results[index]

    def __len__(self) -> int:
        """Count the results."""
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        """Compare the results."""
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = ResultBase.__hash__

    def __repr__(self) -> str:
        """Name the class and the ids."""
        return f"<{type(self).__name__}: [{', '.join(str(each) for each in self.results)}]>"


class GroupResult(ResultSet[R_co]):
    """The results of a group."""

    __slots__ = ("id",)

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[AsyncResult[R_co]] = (),
        *,
        app: ResultApp | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        super().__init__(results, app=app, parent=parent)
        self.id = id

    @property
    def children(self) -> list[AsyncResult[R_co]]:
        """Its results."""
        return self.results

    def save(self) -> None:
        """Keep in the store what it consists of, for ``restore``, as long as results are kept."""
        expires_in = self.app.conf.result_expires
        self.backend.save_group(str(self), encode_group(self.as_tuple()), expires_in=expires_in)

    @classmethod
    def restore(cls, id: str, *, app: ResultApp | None = None) -> GroupResult[Any] | None:
        """Return the group that was saved under this id; None if there is none."""
        app = app or current_app()
        data = app.bridge.store.saved_group(id)
        if data is None:
            return None
        found: GroupResult[Any] = result_from_tuple(decode_group(data), app)
        return found

    def delete(self) -> None:
        """Delete what ``save`` kept; the members' results stay."""
        self.backend.forget_group(str(self))

    def as_tuple(self) -> Any:
        """Return the result tuple that ``result_from_tuple`` reads."""
        return _as_tuple(self)

    def __bool__(self) -> bool:
        """Be true, unless it has neither id nor results."""
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        """Compare id, results and parent."""
        if isinstance(other, GroupResult):
            return (self.id, self.results, self.parent) == (other.id, other.results, other.parent)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        """Hash the id."""
        return hash(self.id)

    def __str__(self) -> str:
        """Return the id."""
        return str(self.id)

    def __repr__(self) -> str:
        """Name the class and the ids."""
        return f"<{type(self).__name__}: {self.id} [{', '.join(map(str, self.results))}]>"

    def __reduce__(self) -> Any:
        """Travel without the application: it is the current one where it arrives."""
        return result_from_tuple, (self.as_tuple(),)


class GroupResults:
    """``app.GroupResult``: makes results of groups of this application, and finds saved ones."""

    def __init__(self, app: ResultApp) -> None:
        self._app = app

    def __call__(
        self, group_id: str, results: Iterable[AsyncResult[Any]] = (), **options: Any
    ) -> GroupResult[Any]:
        """Return the result object of a group."""
        return GroupResult(group_id, results, app=self._app, **options)

    def restore(self, group_id: str) -> GroupResult[Any] | None:
        """Return the group that was saved under this id; None if there is none."""
        return GroupResult.restore(group_id, app=self._app)


def _check(results: Iterable[object]) -> None:
    for each in results:
        if not isinstance(each, ResultBase):
            raise TypeError(
                f"expected results of tasks or groups, got {each!r}; AsyncResult(id) is one"
            )


def _nothing(_: BaseException) -> None:
    pass


def result_from_tuple(data: Any, app: ResultApp | None = None) -> Any:
    """Return the result, of a task or of a group, that ``as_tuple`` wrote."""
    if isinstance(data, ResultBase):
        return data
    lineage = []
    while data is not None:
        (task_id, parent), members = _head(data)
        lineage.append((task_id, members))
        data = parent
    result: ResultBase | None = None
    for task_id, members in reversed(lineage):
        if members is None:
            result = AsyncResult(task_id, app=app, parent=result)
        else:
            results = [result_from_tuple(each, app) for each in members]
            result = GroupResult(task_id, results, app=app, parent=result)
    return result


def _head(data: Any) -> tuple[tuple[str, Any], Any]:
    """Read ``[[id, parent], members]``, or the older ``[id, members]``."""
    head, members = data
    if isinstance(head, str):
        return (head, None), members
    task_id, parent = head
    return (task_id, parent), members


def _as_tuple(result: AsyncResult[Any] | GroupResult[Any]) -> Any:
    data = None
    for each in reversed([result, *result.ancestors()]):
        if isinstance(each, GroupResult):
            data = group_tuple(each.id or "", (member.as_tuple() for member in each.results), data)
        elif isinstance(each, AsyncResult):
            data = task_tuple(each.id, data)
    return data
