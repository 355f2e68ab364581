"""One wait for the results of any number of tasks.

What is waited for, what is done with each answer and when it is enough is decided here, in code
that neither waits nor knows who does: a thread (``gather``) and a coroutine (``agather``) drive it
alike. One watch, one pass over the answers: 100,000 results cost 100,000 times what one does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, closing
from typing import Any, Generic, Protocol, TypeVar

from umbel.bridge import ResultBridge, aio
from umbel.bridge.waiters import Arrival

#: A meta as decoded: what the store keeps about a task.
Meta = dict[str, Any]


A = TypeVar("A")


class Answer(Protocol):
    """What Gathering needs of a result."""

    @property
    def id(self) -> str:
        """The task's id."""
        ...

    def keep(self, meta: Meta) -> None:
        """Remember this final meta."""
        ...


class Gathering:
    """Collects the final metas of ``wanted``.

    ``on_final`` is called with each result as it becomes final; what it raises ends the wait.
    ``beside`` are results that are not waited for, but ``on_beside`` is told of their end.
    ``on_message`` is given every meta of any of them, intermediate ones too.
    """

    def __init__(
        self,
        bridge: ResultBridge,
        wanted: Iterable[Answer],
        *,
        on_final: Callable[[Any], object] | None = None,
        on_message: Callable[[Meta], object] | None = None,
        beside: Iterable[Answer] = (),
        on_beside: Callable[[Any], object] | None = None,
    ) -> None:
        self.bridge = bridge
        self._wanted = _by_id(wanted)
        self._beside = _by_id(beside)
        self._on_final = on_final
        self._on_beside = on_beside
        self._on_message = on_message

    def ids(self) -> list[str]:
        return list({**self._wanted, **self._beside})

    def complete(self) -> bool:
        return not self._wanted

    def take(self, arrivals: Iterable[Arrival]) -> list[Any]:
        """Take what came; return those of the wanted results that are final now."""
        finished: list[Any] = []
        for task_id, stored, final in arrivals:
            if not final and self._on_message is None:
                continue
            meta = self.bridge.decode(stored)
            if self._on_message is not None:
                self._on_message(meta)
            if final:
                finished += _keep(self._wanted.pop(task_id, ()), meta, self._on_final)
                if self._beside:
                    _keep(self._beside.pop(task_id, ()), meta, self._on_beside)
        return finished


def _by_id(answers: Iterable[Answer]) -> dict[str, tuple[Answer, ...]]:
    found: dict[str, tuple[Answer, ...]] = {}
    for each in answers:
        found[each.id] = (*found.get(each.id, ()), each)
    return found


def _keep(
    answers: tuple[Answer, ...], meta: Meta, then: Callable[[Any], object] | None
) -> tuple[Answer, ...]:
    for each in answers:
        each.keep(meta)
        if then is not None:
            then(each)
    return answers


def gather(gathering: Gathering, timeout: float | None) -> None:
    """Wait, as a thread, until the gathering is complete."""
    if gathering.complete():
        return
    with closing(gathering.bridge.follow(gathering.ids(), timeout=timeout)) as batches:
        for arrivals in batches:
            gathering.take(arrivals)
            if gathering.complete():
                return


async def agather(
    gathering: Gathering,
    timeout: float | None,  # noqa: ASYNC109 -- the error names what is missing
) -> None:
    """Wait, as a coroutine, until the gathering is complete."""
    if gathering.complete():
        return
    async with aclosing(aio.follow(gathering.bridge, gathering.ids(), timeout=timeout)) as batches:
        async for arrivals in batches:
            gathering.take(arrivals)
            if gathering.complete():
                return


class Completions(Generic[A]):
    """Results as they become final, for ``for`` and for ``async for``."""

    def __init__(self, gathering: Gathering, known: Iterable[A], timeout: float | None) -> None:
        self._gathering = gathering
        self._known = known
        self._timeout = timeout

    def __iter__(self) -> Iterator[A]:
        """Wait as a thread."""
        yield from self._known
        gathering = self._gathering
        if gathering.complete():
            return
        with closing(gathering.bridge.follow(gathering.ids(), timeout=self._timeout)) as batches:
            for arrivals in batches:
                yield from gathering.take(arrivals)

    async def __aiter__(self) -> AsyncIterator[A]:
        """Wait as a coroutine."""
        for each in self._known:
            yield each
        gathering = self._gathering
        if gathering.complete():
            return
        following = aio.follow(gathering.bridge, gathering.ids(), timeout=self._timeout)
        async with aclosing(following) as batches:
            async for arrivals in batches:
                for each in gathering.take(arrivals):
                    yield each
