"""Results that were sent to this process: the only place where rpc results can be found.

A result travels as one message to the queue that its caller named in ``reply_to``, as Celery's rpc
store does it; the server forgets it when it was delivered. So it is kept here, until it expires or
too many are kept; then the oldest go first, and ``results.dropped`` is told. Its state and the time
of its expiry travel in our header, so that a late repeat cannot replace a SUCCESS; Celery's results
have no such header and replace each other.

Owners. ``put`` is called by whoever drives the connection, the rest by any thread; one lock guards
all of it and is held for a few operations only. A ``Follower`` belongs to its watch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from umbel.clock import Clock
from umbel.states import SUCCESS
from umbel.telemetry import emit

#: Results kept at most, and bytes of them.
_MOST, _MOST_BYTES = 100_000, 64_000_000


@dataclass(frozen=True, slots=True)
class _Kept:
    meta: bytes
    state: str
    #: Wall time; None = as long as there is room.
    expires_at: float | None


@dataclass(eq=False, slots=True)
class Follower:
    """One watch's part of the mailbox."""

    ids: set[str] = field(default_factory=set)
    news: deque[tuple[str, bytes]] = field(default_factory=deque)
    #: It was told to return from its receive.
    woken: bool = False


class Mailbox:
    """See the essay above. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0
        self._followers: list[Follower] = []

    def put(self, task_id: str, meta: bytes, *, state: str, expires_at: float | None) -> None:
        """Keep a result that arrived, unless a SUCCESS is there, and tell who follows it."""
        with self._lock:
            old = self._kept.pop(task_id, None)
            if old is not None and old.state == SUCCESS and not self._is_over(old):
                self._kept[task_id] = old
                return
            self._kept[task_id] = _Kept(meta, state, expires_at)
            self._bytes += len(meta) - (len(old.meta) if old else 0)
            for follower in self._followers:
                if task_id in follower.ids:
                    follower.news.append((task_id, meta))
            dropped = self._make_room()
        if dropped:
            emit("results.dropped", count=dropped)

    def get(self, task_ids: Iterable[str]) -> dict[str, bytes]:
        with self._lock:
            found = {task_id: self._kept.get(task_id) for task_id in task_ids}
            return {
                task_id: kept.meta
                for task_id, kept in found.items()
                if kept is not None and not self._is_over(kept)
            }

    def forget(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in task_ids:
                self._drop(task_id)

    def follow(self) -> Follower:
        """Begin to follow; nothing yet."""
        follower = Follower()
        with self._lock:
            self._followers.append(follower)
        return follower

    def add(self, follower: Follower, task_ids: Iterable[str]) -> None:
        """Follow these too; what is kept of them is news."""
        with self._lock:
            for task_id in task_ids:
                follower.ids.add(task_id)
                kept = self._kept.get(task_id)
                if kept is not None and not self._is_over(kept):
                    follower.news.append((task_id, kept.meta))

    def discard(self, follower: Follower, task_ids: Iterable[str]) -> None:
        with self._lock:
            follower.ids.difference_update(task_ids)

    def take(self, follower: Follower) -> list[tuple[str, bytes]]:
        """Return the news, without those of ids that are followed no more."""
        with self._lock:
            news, follower.news = follower.news, deque()
            return [(task_id, meta) for task_id, meta in news if task_id in follower.ids]

    def leave(self, follower: Follower) -> None:
        with self._lock:
            if follower in self._followers:
                self._followers.remove(follower)

    def _make_room(self) -> int:
        dropped = 0
        while len(self._kept) > _MOST or (self._bytes > _MOST_BYTES and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))
            dropped += 1
        return dropped

    def _drop(self, task_id: str) -> None:
        kept = self._kept.pop(task_id, None)
        if kept is not None:
            self._bytes -= len(kept.meta)

    def _is_over(self, kept: _Kept) -> bool:
        return kept.expires_at is not None and kept.expires_at <= self._clock.now()
