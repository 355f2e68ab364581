"""The states of one task: what came of it, and its states as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from umbel import states
from umbel.bridge import ResultBridge, aio
from umbel.bridge.waiters import Arrival
from umbel.result.gathering import Meta
from umbel.wire.result import result_of


class RemoteTraceback(Exception):  # noqa: N818 -- never raised: the cause of what a task raised
    """Where in the worker a task's exception was raised."""

    def __str__(self) -> str:
        """Show the worker's traceback, set off from the caller's own."""
        return f'\n"""\n{self.args[0].rstrip()}\n"""'


def outcome(meta: Meta) -> Any:
    """Return a meta's result: a value, or an exception whose cause shows the worker's traceback."""
    value = result_of(meta)
    if isinstance(value, BaseException) and value.__cause__ is None and meta.get("traceback"):
        value.__cause__ = RemoteTraceback(meta["traceback"])
    return value


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state that a task reached, and the result, meta or exception that came with it."""

    task_id: str
    state: str
    info: Any

    @property
    def ready(self) -> bool:
        """Tell whether nothing follows."""
        return self.state in states.READY_STATES


class Changes:
    """The states of a task as they come, for ``for`` and for ``async for``."""

    def __init__(
        self, bridge: ResultBridge, task_id: str, *, timeout: float | None, known: Meta | None
    ) -> None:
        self._bridge = bridge
        self._task_id = task_id
        self._timeout = timeout
        self._known = known

    def __iter__(self) -> Iterator[StateChange]:
        """Wait as a thread."""
        if self._known is not None:
            yield self._change(self._known)
            return
        with closing(self._bridge.follow((self._task_id,), timeout=self._timeout)) as batches:
            for arrivals in batches:
                yield from self._changes(arrivals)

    async def __aiter__(self) -> AsyncIterator[StateChange]:
        """Wait as a coroutine."""
        if self._known is not None:
            yield self._change(self._known)
            return
        following = aio.follow(self._bridge, (self._task_id,), timeout=self._timeout)
        async with aclosing(following) as batches:
            async for arrivals in batches:
                for change in self._changes(arrivals):
                    yield change

    def _changes(self, arrivals: Iterable[Arrival]) -> Iterator[StateChange]:
        for _, stored, _ in arrivals:
            yield self._change(self._bridge.decode(stored))

    def _change(self, meta: Meta) -> StateChange:
        return StateChange(self._task_id, meta["status"], outcome(meta))
