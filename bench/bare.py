"""What the bare loops share: how their workers are started, and how a client waits."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

#: Whether messages carry calls, whose results are stored.
CALL = os.environ.get("BENCH_CALL") == "1"
#: Seconds between looks at an empty queue, or for a result, and for which results are kept.
POLL, KEPT = 0.001, 86400
#: Messages that are received, or acknowledged, at once.
BATCH = 100
#: Ids: SQLite's own would be used again once the table is empty. There is one publisher.
numbers = itertools.count(time.time_ns())

_ENDS = (signal.SIGTERM, signal.SIGINT)


def polled(look: Callable[[], Any], timeout: float) -> Any:
    """Look until there is something; return it."""
    deadline = time.monotonic() + timeout
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing in {timeout} s")
        time.sleep(POLL)
    return found


def run(work: Callable[[], None]) -> None:
    """Fork as many workers as the command line says, and end them when told to."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    pids = [_fork(work) for _ in range(int(sys.argv[1]))]
    signal.sigwait(_ENDS)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        work()
    return pid
