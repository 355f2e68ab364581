"""Autoscale: how many children there shall be, judged by how busy they are. Pure.

Nobody counts what waits in the queues: whether all hands are full tells the same, is on the board
already and costs no server anything. While no child was idle for ``GROW_AFTER`` seconds their
number grows by half; if that was too many, some stay idle, and as many as were idle at every look
of the last ``SHRINK_AFTER`` seconds are taken away. Only idle children leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

#: Seconds for which all must have been busy before there are more.
GROW_AFTER = 1.0
#: Seconds for which some must have been idle before there are fewer.
SHRINK_AFTER = 30.0
#: Seconds between looks.
LOOK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one child is."""

    pid: int
    #: Monotonic times; see the board.
    idle_since: float
    busy_since: float


class Autoscaler:
    """Decides how many children there shall be. Owned by the supervisor."""

    def __init__(self, most: int, least: int) -> None:
        self.most = most
        self.least = least
        self.wanted = least
        self._look_at = 0.0
        self._changed_at = 0.0
        #: When one looked, and how many were idle.
        self._idle: deque[tuple[float, int]] = deque()

    def look(self, now: float, loads: Sequence[Load]) -> Sequence[int]:
        """Set ``wanted`` anew; return the pids of those that shall leave, the idlest first."""
        if now < self._look_at or len(loads) != self.wanted:
            return ()  # while some start or leave, it is not known whether they are enough
        self._look_at = now + LOOK_EVERY
        self._changed_at = self._changed_at or now
        idle = sorted((load for load in loads if load.idle_since), key=lambda load: load.idle_since)
        self._idle.append((now, len(idle)))
        while self._idle[0][0] < now - SHRINK_AFTER:
            self._idle.popleft()
        if not idle and now - max(load.busy_since for load in loads) >= GROW_AFTER:
            self._change(min(self.wanted + max(self.wanted // 2, 1), self.most), now)
            return ()
        if now - self._changed_at < SHRINK_AFTER:
            return ()
        spare = min(*(count for _, count in self._idle), self.wanted - self.least)
        self._change(self.wanted - spare, now)
        return [load.pid for load in idle[:spare]]

    def _change(self, wanted: int, now: float) -> None:
        if wanted != self.wanted:
            self.wanted = wanted
            self._changed_at = now
            self._idle.clear()
