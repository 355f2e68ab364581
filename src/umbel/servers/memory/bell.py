"""How one thread of this process wakes another."""

from __future__ import annotations

import threading


class Bell:
    """Wakes one waiting thread; rung before the wait, the wait does not begin. Signal-safe.

    A lock that is held means silence. Ringing releases it and takes no other, so it may happen in a
    signal handler that interrupted the waiting thread itself; an Event or a Condition may not.
    """

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        try:
            self._silence.release()
        except RuntimeError:  # it rings already
            return

    def wait(self, timeout: float) -> bool:
        """Return whether it rang within this time, and silence it."""
        return self._silence.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))
