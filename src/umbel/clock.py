"""The one place that reads the time or sleeps; whatever waits or compares times takes a Clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time, monotonic time and sleep, all in seconds."""

    def now(self) -> float:
        """Return the wall time, seconds since 1970 (for what is shared across hosts)."""
        ...

    def monotonic(self) -> float:
        """Return a time that never goes back (for deadlines and durations inside a process)."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block the calling thread."""
        ...


class SystemClock:
    """The machine's clocks. The methods are the C functions themselves: no Python frame."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


SYSTEM_CLOCK = SystemClock()
