"""Waiting for the writers' turn with a deadline: what ``connection`` says about deadlines."""

from __future__ import annotations

import fcntl
import os
import threading

#: How the turn's file is opened.
TURN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class Turn:
    """One wait for one turn, by a thread that is left behind when the deadline passes.

    The thread has a descriptor of its own: with a shared one a late turn would end another's. Who
    closes it is settled under ``_settling``: the waiter when he gave up after the turn had come,
    else the thread.
    """

    def __init__(self, path: str, mode: int) -> None:
        self._fd = os.open(path, TURN_FLAGS, mode)
        self._settling = threading.Lock()
        self._ended = threading.Event()
        self._taken = False
        self._given_up = False

    def wait(self, timeout: float) -> bool:
        """Wait for the turn; tell whether it has come. If not, it is given up."""
        threading.Thread(target=self._take, name="umbel-sqlite-turn", daemon=True).start()
        if not self._ended.wait(max(0.0, timeout)):
            self.give_up()
        return not self._given_up

    def adopt(self) -> int:
        """Return the descriptor that holds the turn; it is the caller's from now on."""
        fd, self._fd = self._fd, -1
        return fd

    def give_up(self) -> None:
        """Leave the turn to others, now or when it comes. Idempotent."""
        with self._settling:
            if self._taken and not self._given_up and self._fd >= 0:
                os.close(self._fd)
            self._given_up = True

    def _take(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._settling:
            self._taken = not self._given_up
            if self._given_up:
                os.close(self._fd)
        self._ended.set()
