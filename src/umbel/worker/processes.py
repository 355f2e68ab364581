"""Forking a worker's processes: what each leaves behind, and how they are told and judged."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from umbel import telemetry
from umbel.worker.board import Slot, SlotState

#: Tells a forked process whether the supervisor that forked it still lives.
ParentLives = Callable[[], bool]
#: Returns when a child that succeeds another may begin.
Wait = Callable[[], None]

#: What a supervisor handles and its children do not, or otherwise.
_OWN_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)


class Stop(Protocol):
    """What is done when the end begins, or has come; told whether the worker will start anew."""

    def __call__(self, *, restarting: bool) -> None: ...


@dataclass(slots=True)
class Child:
    """A child as its supervisor knows it. The supervisor owns it."""

    pid: int
    slot: Slot
    #: The pid of the one whose place it will take; 0 = it has its own.
    follows: int = 0
    #: Closing it lets the child begin; -1 = it has.
    go_fd: int = -1
    #: It was told to leave, since its work is over or others do it.
    retiring: bool = False
    #: How far the end of the worker was told to it: 1 = warm, 2 = cold.
    told: int = 0
    #: Ids of the tasks for which it is ended: over their hard limit, or terminated.
    condemned: frozenset[str] = frozenset()
    #: Monotonic time at which it is killed if a signal has not ended what was to be terminated.
    kill_at: float = 0.0

    def begin(self) -> None:
        """Let it receive, in a place of its own."""
        self.follows = 0
        if self.go_fd >= 0:
            os.close(self.go_fd)
            self.go_fd = -1


class Family:
    """All processes of a worker. The supervisor owns it."""

    def __init__(
        self,
        child_main: Callable[[Slot, int, ParentLives, Wait | None], None],
        node_main: Callable[[int, ParentLives], None],
        ring_fd: int,
    ) -> None:
        self.children: dict[int, Child] = {}
        self.node_pid = 0
        self._child_main = child_main
        self._node_main = node_main
        #: Children write into it to wake the supervisor.
        self._ring_fd = ring_fd
        self._node_fd = -1
        self._pid = os.getpid()

    def start_child(self, slot: Slot, *, follows: int) -> None:
        """Fork a child; one that follows another waits until it is told to begin."""
        slot.clear()
        slot.state = SlotState.STARTING
        read_fd, go_fd = os.pipe() if follows else (-1, -1)
        pid = os.fork()
        if not pid:
            self._close_ends(go_fd)
            wait = _turn_of(read_fd) if follows else None
            _become(lambda: self._child_main(slot, self._ring_fd, self._lives, wait))
        if follows:
            os.close(read_fd)
        slot.pid = pid
        self.children[pid] = Child(pid, slot, follows, go_fd)
        telemetry.emit("child.started", pid=pid)

    def start_node(self) -> None:
        """Fork the node."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        pid = os.fork()
        if not pid:
            self._close_ends(write_fd)
            _become(lambda: self._node_main(read_fd, self._lives))
        os.close(read_fd)
        self.node_pid, self._node_fd = pid, write_fd

    def reap(self) -> Iterator[tuple[int, int]]:
        """Yield pid and exit code of each process that has ended, strangers' children too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)

    def wake_node(self) -> None:
        """Make the node look at the board now."""
        if self._node_fd < 0:  # its successor will look
            return
        try:
            os.write(self._node_fd, b"g")
        except (BlockingIOError, BrokenPipeError):
            return  # it is awake, or dead and its successor will look

    def let_node_end(self) -> None:
        """Close the node's pipe, which ends it; a signal could come before it listens."""
        os.close(self._node_fd)
        self._node_fd = -1

    def _close_ends(self, own: int) -> None:
        """In a forked process: close what only the supervisor shall hold open."""
        for fd in {own, self._node_fd, *(child.go_fd for child in self.children.values())} - {-1}:
            os.close(fd)

    def _lives(self) -> bool:
        # Compared with the pid from before the fork: who is forked just before the supervisor dies
        # must not take its new parent for it.
        return os.getppid() == self._pid


def _become(main: Callable[[], None]) -> NoReturn:
    """In a forked process: leave everything of the supervisor behind and run ``main``."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for signum in _OWN_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        dump_stacks_on_usr1()
        main()
        code = 0
    except BaseException:  # noqa: BLE001 -- nothing may unwind into the supervisor's frames
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _turn_of(read_fd: int) -> Wait:
    """Return what waits until the supervisor closes the other end."""

    def wait() -> None:
        os.read(read_fd, 1)
        os.close(read_fd)

    return wait


def dump_stacks_on_usr1() -> None:
    """Make USR1 write the stack of every thread to stderr, even of one that hangs in C code."""
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def dump_stacks() -> None:
    """Write the stack of every thread to stderr."""
    faulthandler.dump_traceback(file=2, all_threads=True)


def may_fork() -> bool:
    """Tell whether this process has no other threads, so that a fork copies no held lock."""
    if threading.active_count() > 1:
        return False
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1
    except OSError:
        return True  # no /proc here (macOS): Python's own count has to do


def meanings() -> dict[int, int]:
    """Return which signals stand for others here: REMAP_SIGTERM=SIGQUIT, and a terminal's end."""
    found: dict[int, int] = {}
    if os.environ.get("REMAP_SIGTERM") == "SIGQUIT":
        found[signal.SIGTERM] = signal.SIGQUIT
    if os.isatty(0):  # closing it ends what was started in it, and does not start it anew
        found[signal.SIGHUP] = signal.SIGTERM
    return found


def send(pid: int, signum: int) -> None:
    """Send a signal to a process that may be gone; 0 = there is none."""
    if pid > 0:  # to 0 it would go to ourselves and all of our group
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def how_it_ended(code: int) -> str:
    """Say in words what an exit code means."""
    if code >= 0:
        return f"exited with code {code}"
    return f"was ended by {signal.Signals(-code).name}"
