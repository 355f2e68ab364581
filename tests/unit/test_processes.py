"""Signals to processes that may be gone, or are not there yet."""

from __future__ import annotations

import os
import signal

from umbel.worker.processes import send


def test_a_process_that_is_not_there_gets_no_signal_and_neither_do_we() -> None:
    # Given a handler of a signal that nobody else minds
    heard: list[int] = []
    before = signal.signal(signal.SIGURG, lambda signum, _: heard.append(signum))
    try:
        # When
        send(0, signal.SIGURG)
        # Then
        assert not heard
        send(os.getpid(), signal.SIGURG)
        assert heard == [signal.SIGURG]
    finally:
        signal.signal(signal.SIGURG, before)
