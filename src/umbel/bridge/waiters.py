"""Those who wait for results, as the bridge sees them: threads, and what has no thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias

from umbel.exceptions import TimeoutError

#: What came for a waiter: a task's id, the meta as stored, and whether it is final.
Arrival: TypeAlias = tuple[str, bytes, bool]


class Bell(Protocol):
    """How the waiters of one thread or event loop are told that something came for them."""

    def ring(self, waiters: Sequence[Passive]) -> None:
        """Tell them, perhaps once too often. Any thread; must neither block, raise nor wait."""


def seconds(timeout: float) -> float:
    """Return a timeout that a user gave, if it is one."""
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout: expected a number of seconds or None, got {timeout!r}")
    return timeout


class Waiter:
    """One wait for some tasks. Its fields belong to the bridge's mutex."""

    __slots__ = ("__weakref__", "eager", "error", "fresh", "since", "wanted")

    def __init__(self, task_ids: Iterable[str] = (), *, eager: bool = False) -> None:
        #: Tasks whose final meta has not come.
        self.wanted = set(task_ids)
        #: Wants every meta as it comes, intermediate ones too; else the final ones, all at once.
        self.eager = eager
        #: What came and was not taken.
        self.fresh: list[Arrival] = []
        #: Why nothing more will come.
        self.error: BaseException | None = None
        #: When it entered, in monotonic time.
        self.since = 0.0

    def due(self) -> bool:
        """Tell whether there is something to take, or nothing more to wait for."""
        return not self.wanted or self.error is not None or (self.eager and bool(self.fresh))

    def hand(self, arrival: Arrival) -> None:
        if arrival[2]:
            self.wanted.discard(arrival[0])
        elif not self.eager:
            return
        self.fresh.append(arrival)


class Sleeper(Waiter):
    """The wait of a thread. It may lead."""

    __slots__ = ("_strokes",)

    def __init__(self, task_ids: Iterable[str] = (), *, eager: bool = False) -> None:
        super().__init__(task_ids, eager=eager)
        self._strokes: SimpleQueue[None] = SimpleQueue()

    def sleep(self, timeout: float) -> None:
        with suppress(Empty):
            self._strokes.get(timeout=timeout)

    def rouse(self) -> None:
        """End its sleep, or keep it from the next one."""
        self._strokes.put(None)


class Passive(Waiter):
    """The wait of something that has no thread; the reader waits in its stead."""

    __slots__ = ("bell",)

    def __init__(self, task_ids: Iterable[str], bell: Bell, *, eager: bool = False) -> None:
        super().__init__(task_ids, eager=eager)
        self.bell = bell


def late(waiter: Waiter, timeout: float | None, caveat: str) -> TimeoutError:
    """Return the error of a wait that did not end in time; it names what is missing, and why."""
    missing = sorted(waiter.wanted)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    why = f" ({caveat})" if caveat else ""
    return TimeoutError(f"no result of {missing[0]}{more} in {timeout} s{why}")
