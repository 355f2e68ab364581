"""Joins in memory. Part of a space, used with its lock held."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from umbel.clock import Clock
from umbel.message import Arrival, Join
from umbel.servers.seams import Joined


@dataclass(slots=True)
class Gathering:
    """A join as it is kept."""

    context: bytes
    #: None = nobody has said it yet.
    size: int | None = None
    #: Members added to those it was opened with.
    added: int = 0
    #: Member -> its index, infinite = none, and its part.
    parts: dict[str, tuple[float, bytes]] = field(default_factory=dict)
    #: Monotonic time; None = it is not complete.
    complete_since: float | None = None
    is_closed: bool = False

    def is_full(self) -> bool:
        return self.size is not None and len(self.parts) >= self.size + self.added


class JoinTable:
    """All joins of a space."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, Gathering] = {}
        #: (expires at, join id), in wall time.
        self._expiries: list[tuple[float, str]] = []

    def open(self, joins: Iterable[Join]) -> None:
        for join in joins:
            kept = self._keep(join.id, join.context, join.expires_in)
            if kept.size is None:
                kept.size = join.size
                self._completes(kept)

    def enlarge(self, join_id: str, members: int) -> None:
        kept = self._kept.get(join_id)
        if kept is not None and kept.complete_since is None:
            kept.added += members

    def arrive(self, arrivals: Iterable[Arrival]) -> list[str]:
        """Note arrivals; return the joins that they complete."""
        completed: list[str] = []
        for arrival in arrivals:
            if not arrival.context and arrival.join not in self._kept:
                continue
            kept = self._keep(arrival.join, arrival.context, arrival.expires_in)
            if kept.complete_since is not None or arrival.member in kept.parts:
                continue
            index = math.inf if arrival.index is None else arrival.index
            kept.parts[arrival.member] = (index, arrival.part)
            kept.context = arrival.context or kept.context
            if self._completes(kept):
                completed.append(arrival.join)
        return completed

    def may_close(self, join_id: str) -> bool:
        kept = self._kept.get(join_id)
        return kept is not None and kept.complete_since is not None and not kept.is_closed

    def close(self, join_id: str) -> None:
        kept = self._kept[join_id]
        kept.is_closed = True
        kept.parts = {}

    def joined(self, join_ids: Sequence[str]) -> dict[str, Joined]:
        return {each: _joined(self._kept[each]) for each in join_ids if self.may_close(each)}

    def unclosed(self, older_than: float, limit: int) -> list[str]:
        before = self._clock.monotonic() - older_than
        waiting = [
            join_id
            for join_id, kept in self._kept.items()
            if not kept.is_closed
            and kept.complete_since is not None
            and kept.complete_since <= before
        ]
        return waiting[:limit]

    def _completes(self, kept: Gathering) -> bool:
        if not kept.is_full() or kept.complete_since is not None:
            return False
        kept.complete_since = self._clock.monotonic()
        return True

    def _keep(self, join_id: str, context: bytes, expires_in: float | None) -> Gathering:
        now = self._clock.now()
        while self._expiries and self._expiries[0][0] <= now:
            self._kept.pop(heapq.heappop(self._expiries)[1], None)
        kept = self._kept.get(join_id)
        if kept is None:
            kept = self._kept[join_id] = Gathering(context)
            if expires_in is not None:
                heapq.heappush(self._expiries, (now + expires_in, join_id))
        return kept


def _joined(kept: Gathering) -> Joined:
    return Joined(kept.context, [part for _, part in sorted(kept.parts.values(), key=_index)])


def _index(part: tuple[float, bytes]) -> float:
    return part[0]
