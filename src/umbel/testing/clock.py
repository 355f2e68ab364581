"""A clock that tests move, so that no test sleeps until a lease has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

from umbel.clock import SYSTEM_CLOCK

#: Where a clock begins that stands still: a round number, so that differences are easy to read.
START = 1_800_000_000.0


class FakeClock:
    """Stands still until ``advance``, and then tells its listeners. Thread-safe.

    ``FakeClock.running()`` begins at the real time and goes on by itself as well. That is the one
    for servers: waits with a timeout still end, other processes see almost the same time, and
    ``advance`` makes leases end and delayed messages due at once.
    """

    def __init__(self, at: float = START) -> None:
        self._lock = threading.Lock()
        self._now = at
        self._monotonic = 1000.0
        self._runs = False
        self._listeners: tuple[Callable[[], object], ...] = ()

    @classmethod
    def running(cls) -> FakeClock:
        """Return a clock that also goes by itself, from the real time on."""
        clock = cls(0.0)
        clock._monotonic = 0.0
        clock._runs = True
        return clock

    def go(self) -> None:
        """Go by itself from here on, as ``FakeClock.running()`` does."""
        with self._lock:
            if not self._runs:
                self._now -= SYSTEM_CLOCK.now()
                self._monotonic -= SYSTEM_CLOCK.monotonic()
                self._runs = True

    def now(self) -> float:
        return self._now + (SYSTEM_CLOCK.now() if self._runs else 0.0)

    def monotonic(self) -> float:
        return self._monotonic + (SYSTEM_CLOCK.monotonic() if self._runs else 0.0)

    def sleep(self, seconds: float) -> None:
        """Let that time pass at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both times ahead, then call the listeners in this thread."""
        with self._lock:
            self._now += seconds
            self._monotonic += seconds
        for listener in self._listeners:
            listener()

    def set_back(self, seconds: float) -> None:
        """Move the wall time back, as an administrator or NTP may; monotonic time stays."""
        with self._lock:
            self._now -= seconds

    def subscribe(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` after each ``advance``; call what is returned to end that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return unsubscribe
