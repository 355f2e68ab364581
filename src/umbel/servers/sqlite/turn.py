"""Waiting for the writers' turn with a deadline: what ``connection`` says about deadlines."""

from __future__ import annotations

import _thread
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

    Plain locks and a plain thread, not ``Event`` and ``Thread``: exceptions that strike while these
    run come out as others, or leave them broken.
    """

    def __init__(self, path: str, mode: int) -> None:
        #: Holds the turn once it has come; it is the waiter's from then on.
        self.fd = os.open(path, TURN_FLAGS, mode)
        self._settling = threading.Lock()
        #: Held until the turn has come.
        self._coming = threading.Lock()
        self._coming.acquire()
        self._taken = False
        self._given_up = False

    def wait(self, timeout: float) -> bool:
        """Wait for the turn; tell whether it has come. If not, it is given up."""
        _thread.start_new_thread(self._take, ())
        if not self._coming.acquire(timeout=max(0.0, timeout)):
            self.give_up()
        return not self._given_up

    def give_up(self) -> None:
        """Leave the turn to others, now or when it comes. Not after ``fd`` was taken over."""
        with self._settling:
            if self._taken and not self._given_up:
                os.close(self.fd)
            self._given_up = True

    def _take(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        with self._settling:
            self._taken = not self._given_up
            if self._given_up:
                os.close(self.fd)
        self._coming.release()
