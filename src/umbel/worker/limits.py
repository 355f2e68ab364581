"""Soft time limits: SoftTimeLimitExceeded raised inside the task.

In a main thread by an interval timer and its signal, so that it interrupts sleeps and system calls;
in other threads by an asynchronous exception, which arrives when the thread next runs Python code.
Hard limits are not here: the supervisor sees them on the board.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from umbel.exceptions import SoftTimeLimitExceeded


class SoftLimit(Protocol):
    """Raises SoftTimeLimitExceeded in the thread that armed it. Owned by that thread."""

    def arm(self, seconds: float) -> None:
        """Raise in ``seconds``."""

    def disarm(self) -> None:
        """Do not raise any more."""


class SignalLimit:
    """For the main thread of a process."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def arm(self, seconds: float) -> None:
        """Raise in ``seconds``."""
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        """Do not raise any more, even if the signal is already on its way."""
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _ring(self, _signum: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise SoftTimeLimitExceeded


class ThreadLimit:
    """For any other thread: a timer thread sets the exception in it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def arm(self, seconds: float) -> None:
        """Raise in ``seconds``, or when the thread next runs Python code after that."""
        timer = threading.Timer(seconds, self._ring)
        timer.daemon = True
        self._timer = timer
        timer.start()

    def disarm(self) -> None:
        """Do not raise any more."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        # An exception that was set and has not arrived yet arrives in this loop. It cannot be taken
        # back: setting NULL leaves CPython 3.11's eval breaker on for good, in every thread.
        with contextlib.suppress(SoftTimeLimitExceeded):
            for _ in range(3):
                pass

    def _ring(self) -> None:
        with self._lock:
            if self._timer is not None:
                _raise_in(self._thread, SoftTimeLimitExceeded)


def _raise_in(thread: int, exception: type[BaseException]) -> None:
    set_exception: Callable[..., Any] = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception(ctypes.c_ulong(thread), ctypes.py_object(exception))
