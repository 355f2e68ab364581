"""Waiting for the writers' turn with a deadline: what ``connection`` says about deadlines."""

from __future__ import annotations

import fcntl
import os
import threading

#: How the turn's file is opened.
TURN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class Turn:
    """One wait for one turn, by a thread that is left behind when the deadline passes.

    The thread has a descriptor of its own: with a shared one a late turn would end another's.
    ``_settling`` guards who closes it.
    """

    def __init__(self, path: str, mode: int) -> None:
        self._fd = os.open(path, TURN_FLAGS, mode)
        self._settling = threading.Lock()
        self._ended = threading.Event()
        self._taken = False
        self._given_up = False

    def wait(self, timeout: float) -> int:
        """Return a descriptor that holds the lock, or -1 at the deadline."""
        threading.Thread(target=self._take, name="umbel-sqlite-turn", daemon=True).start()
        self._ended.wait(max(0.0, timeout))
        with self._settling:
            self._given_up = not self._taken
            return self._fd if self._taken else -1

    def _take(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._settling:
            self._taken = not self._given_up
            if self._given_up:
                os.close(self._fd)
        self._ended.set()
