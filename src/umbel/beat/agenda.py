"""What is due next: a heap by the time of sending. No tick looks at all entries.

An entry has one place in the heap, that of its next due time. Who changes an entry gives it a new
one; its old place is recognised as such when it comes up.
"""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from umbel.scheduling.entry import Entry
from umbel.scheduling.outlook import following_of
from umbel.scheduling.policy import Following
from umbel.scheduling.state import State


@dataclass(slots=True, eq=False)
class Planned:
    """An entry under way. Owned by the agenda."""

    entry: Entry
    state: State
    following: Following
    #: Its place in the heap; 0 = it has none: it is paused, or has no run ahead.
    place: int = 0
    #: When it is sent next.
    send_at: float = 0.0


class Agenda:
    """All entries under way. One thread owns it."""

    def __init__(self, zone: dt.tzinfo) -> None:
        self.zone = zone
        self._planned: dict[str, Planned] = {}
        self._heap: list[tuple[float, int, Planned]] = []
        self._places = itertools.count(1)

    @property
    def planned(self) -> Mapping[str, Planned]:
        """The entries, by name."""
        return self._planned

    def plan(self, entry: Entry, state: State) -> None:
        """Put an entry where its state says; instead of what there was of that name."""
        self.drop(entry.name)
        self._planned[entry.name] = planned = Planned(
            entry, state, following_of(entry, state, self.zone)
        )
        self._place(planned)

    def move(self, planned: Planned, state: State) -> None:
        """Go on with an entry from this state, unless it is planned otherwise meanwhile."""
        if self._planned.get(planned.entry.name) is not planned:
            return
        planned.state = state
        planned.following = following_of(planned.entry, state, self.zone)
        self._place(planned)

    def drop(self, name: str) -> None:
        """Forget an entry."""
        planned = self._planned.pop(name, None)
        if planned is not None:
            planned.place = 0

    def due(self, now: float, limit: int) -> list[Planned]:
        """Return entries that are to be sent by now, the first ones first; they lose their place.

        Each must be moved then.
        """
        found: list[Planned] = []
        while self._heap and self._heap[0][0] <= now and len(found) < limit:
            _, place, planned = heapq.heappop(self._heap)
            if planned.place == place:
                planned.place = 0
                found.append(planned)
        return found

    def next_at(self) -> float | None:
        """Return when something is to be sent next."""
        while self._heap and self._heap[0][2].place != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _place(self, planned: Planned) -> None:
        planned.place = 0
        if planned.entry.paused:
            return
        due_at = planned.following(planned.state.due_at)
        if due_at is not None:
            at = due_at + planned.entry.schedule.delay(planned.entry.name, due_at)
            planned.place, planned.send_at = next(self._places), at
            heapq.heappush(self._heap, (at, planned.place, planned))
