"""Where results lie, and who is to be told of which. Part of a space, used with its lock held."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from umbel.clock import Clock
from umbel.message import ResultRecord
from umbel.servers.memory.bell import Bell
from umbel.states import SUCCESS


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored result."""

    meta: bytes
    state: str
    #: Wall time; infinite = never.
    expires_at: float


@dataclass(slots=True, eq=False)
class Follower:
    """What a watch is to the shelf: the ids it follows, and what it has not been told yet."""

    task_ids: set[str] = field(default_factory=set)
    news: deque[tuple[str, bytes]] = field(default_factory=deque)
    bell: Bell = field(default_factory=Bell)

    def tell(self, task_id: str, meta: bytes) -> None:
        self.news.append((task_id, meta))
        self.bell.ring()


class Shelf:
    """All results of a space."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, Kept] = {}
        #: (expires at, task id) of each put; what was replaced meanwhile is passed over.
        self._expiries: list[tuple[float, str]] = []
        self._followers: dict[str, set[Follower]] = {}

    def put(self, records: Sequence[ResultRecord]) -> None:
        now = self._clock.now()
        self._expire(now)
        for record in records:
            existing = self._kept.get(record.task_id)
            if existing is not None and existing.state == SUCCESS:
                continue
            expires_at = math.inf if record.expires_in is None else now + record.expires_in
            self._kept[record.task_id] = Kept(record.meta, record.state, expires_at)
            if expires_at < math.inf:
                heapq.heappush(self._expiries, (expires_at, record.task_id))
            for follower in self._followers.get(record.task_id, ()):
                follower.tell(record.task_id, record.meta)

    def get(self, task_ids: Iterable[str]) -> dict[str, bytes]:
        self._expire(self._clock.now())
        return {each: self._kept[each].meta for each in task_ids if each in self._kept}

    def forget(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._kept.pop(task_id, None)

    def follow(self, follower: Follower, task_ids: Iterable[str]) -> None:
        """Tell a follower of these from now on, and at once what is already here."""
        new = [task_id for task_id in task_ids if task_id not in follower.task_ids]
        for task_id in new:
            follower.task_ids.add(task_id)
            self._followers.setdefault(task_id, set()).add(follower)
        for task_id, meta in self.get(new).items():
            follower.tell(task_id, meta)

    def unfollow(self, follower: Follower, task_ids: Iterable[str]) -> None:
        for task_id in list(task_ids):
            follower.task_ids.discard(task_id)
            followers = self._followers.get(task_id, set())
            followers.discard(follower)
            if not followers:
                self._followers.pop(task_id, None)

    def _expire(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            _, task_id = heapq.heappop(self._expiries)
            kept = self._kept.get(task_id)
            if kept is not None and kept.expires_at <= now:
                del self._kept[task_id]
