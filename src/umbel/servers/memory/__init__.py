"""The server in this process's memory: ``memory://``, or ``memory://name`` for several.

For tests, and for programs whose tasks run in threads of their own process. It keeps every promise
of the seams except the one it cannot: nothing survives the process.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.servers.memory.commit import MemoryCommit
from umbel.servers.memory.joining import MemoryJoins
from umbel.servers.memory.ledger import MemoryLedger
from umbel.servers.memory.queues import MemoryTransport
from umbel.servers.memory.results import MemoryResults
from umbel.servers.memory.space import Space
from umbel.servers.memory.timetable import MemoryTimetable
from umbel.servers.seams import Server

__all__ = ["MemoryServer", "MemoryTransport", "discard", "open_server"]

#: What exists in this process, by name: two parts of a program meet by nothing but a URL.
_spaces: dict[str, Space] = {}
_opening = threading.Lock()


class MemoryServer(Server):
    """The parts of one space."""

    def __init__(self, name: str, space: Space) -> None:
        self.display_url = f"memory://{name}"
        self.transport = MemoryTransport(space)
        self.results = MemoryResults(space)
        self.ledger = MemoryLedger(space)
        self.bus = None
        self.joins = MemoryJoins(space)
        self.timetable = MemoryTimetable(space)
        self.committer = MemoryCommit(space)

    def close(self) -> None:
        """Do nothing: the space stays until the process ends, as a server does."""


def open_server(url: str, options: dict[str, Any]) -> Server:
    """Return the server of this name; the first to open it may choose its ``clock``."""
    name = url.partition("://")[2].strip("/")
    clock: Clock = options.get("clock") or SYSTEM_CLOCK
    with _opening:
        space = _spaces.setdefault(name, Space(clock))
    return MemoryServer(name, space)


def discard(name: str) -> None:
    """Forget the server of this name; whoever has opened it keeps it."""
    with _opening:
        _spaces.pop(name, None)


def _begin_anew_after_fork() -> None:
    """Empty every space in a forked child.

    A copy of the parent's messages would run them twice, and its locks may be held by threads that
    the child does not have. So the child begins with what a new process has: nothing.
    """
    global _opening  # noqa: PLW0603 -- replaced once per fork, before the child has threads
    _opening = threading.Lock()
    for space in _spaces.values():
        space.begin_anew()


os.register_at_fork(after_in_child=_begin_anew_after_fork)
