"""The pulse: what a child's pump says of itself on the board. Others judge by it who lives."""

from __future__ import annotations

from collections.abc import Callable

from umbel.clock import SYSTEM_CLOCK
from umbel.worker.board import Slot, SlotState

#: Seconds of idleness that end a busy time.
PAUSE = 0.02

_monotonic = SYSTEM_CLOCK.monotonic


class Pulse:
    """Writes to one slot. Owned by the pump's thread."""

    def __init__(self, slot: Slot, ring: Callable[[], object]) -> None:
        self._slot = slot
        #: Rings the supervisor.
        self._ring = ring
        self._idle_since = 0.0

    def turn(self) -> None:
        """Say that the pump turns."""
        self._slot.turned_at = _monotonic()

    def count(self, ended: int) -> None:
        """Say that so many more deliveries have ended."""
        self._slot.processed += ended

    def idle(self) -> None:
        """Say that nothing is held."""
        if not self._idle_since:
            self._idle_since = self._slot.idle_since = _monotonic()

    def busy(self) -> None:
        """Say that something is held."""
        if self._idle_since:
            now = _monotonic()
            if now - self._idle_since > PAUSE:
                self._slot.busy_since = now
            self._idle_since = self._slot.idle_since = 0.0

    def down(self, since: float, why: str) -> None:
        """Say since when a server does not answer."""
        self._slot.trouble.begin(since, why)

    def up(self) -> None:
        """Say that all servers answer."""
        self._slot.trouble.end()

    def worn(self) -> None:
        """Ask for a successor."""
        self._slot.worn = True
        self._ring()

    def spent(self) -> None:
        """Say that nothing runs any more and nothing will."""
        self._slot.state = SlotState.SPENT
        self._ring()
