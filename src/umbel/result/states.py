"""The states of one task: what came of it, and its states as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from umbel import states
from umbel.bridge import ResultBridge, aio
from umbel.result.gathering import Meta
from umbel.wire.result import result_of


class RemoteTraceback(Exception):
    """Where in the worker a task's exception was raised."""

    __module__ = "umbel.result"  # as it is shown above the exception

    def __str__(self) -> str:
        """Show the worker's traceback, set off from the caller's own."""
        return f'\n"""\n{self.args[0].rstrip()}\n"""'


def outcome(meta: Meta) -> Any:
    """Return a meta's result: a value, or an exception whose cause shows the worker's traceback."""
    value = result_of(meta)
    if isinstance(value, BaseException) and value.__traceback__ is None and meta.get("traceback"):
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

    def __init__(self, task_id: str, source: ResultBridge | Meta, timeout: float | None) -> None:
        self._task_id = task_id
        #: Where they come from; or the final one.
        self._source = source
        self._timeout = timeout

    def __iter__(self) -> Iterator[StateChange]:
        """Wait as a thread."""
        bridge = self._source
        if not isinstance(bridge, ResultBridge):
            yield self._change(bridge)
            return
        with closing(bridge.follow((self._task_id,), timeout=self._timeout)) as batches:
            for arrivals in batches:
                for _, stored, _ in arrivals:
                    yield self._change(bridge.decode(stored))

    async def __aiter__(self) -> AsyncIterator[StateChange]:
        """Wait as a coroutine."""
        bridge = self._source
        if not isinstance(bridge, ResultBridge):
            yield self._change(bridge)
            return
        following = aio.follow(bridge, (self._task_id,), timeout=self._timeout)
        async with aclosing(following) as batches:
            async for arrivals in batches:
                for _, stored, _ in arrivals:
                    yield self._change(bridge.decode(stored))

    def _change(self, meta: Meta) -> StateChange:
        return StateChange(self._task_id, meta["status"], outcome(meta))
