"""The supervisor: starts, reaps and replaces a worker's processes, ends those over a limit.

Single-threaded, no connection to any server, no task code: nothing that could hang or crash it. It
sleeps in ``select`` on one pipe, into which the signal machinery and its children write, until the
next hard time limit on the board.

    TERM, INT   warm: children finish what they run; after ``patience`` seconds, give it back
    again, QUIT cold: everything is given back now
    CHLD        reap; mark the slot as a grave for the node; start a successor

A child that dies before it was ready is restarted with back-off. A child of its own keeps nothing
alive: when the supervisor is gone, children see that their parent changed and stop.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from umbel import backoff, telemetry
from umbel.clock import SYSTEM_CLOCK
from umbel.worker.board import Board, Slot, SlotState

logger = logging.getLogger("umbel.worker")

#: Seconds between a child's own deadline at shutdown and the signal that ends it.
KILL_AFTER = 5.0
#: Longest sleep in seconds: a child may begin a task with a hard limit while the supervisor sleeps.
LONGEST_SLEEP = 0.25
#: Seconds that the node has to end.
NODE_PATIENCE = 5.0

_monotonic = SYSTEM_CLOCK.monotonic


#: Tells a forked process whether the supervisor that forked it still lives.
ParentLives = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class SupervisorPlan:
    """What a supervisor keeps running."""

    board: Board
    concurrency: int
    #: Runs in the forked child; does not return.
    child_main: Callable[[Slot, int, ParentLives], None]
    #: Runs in the forked node; returns when it shall end. Gets the fd that wakes it.
    node_main: Callable[[int, ParentLives], None]
    #: Seconds that running tasks have at a warm shutdown.
    patience: float
    on_ready: Callable[[], None]


@dataclass(slots=True)
class _Child:
    pid: int
    slot: Slot
    killed: bool = False


@dataclass(slots=True)
class _State:
    children: dict[int, _Child] = field(default_factory=dict)
    node_pid: int = 0
    node_wake_fd: int = -1
    early_deaths: int = 0
    start_after: float = 0.0
    announced: bool = False
    #: 0 = running, 1 = warm shutdown, 2 = cold.
    stopping: int = 0
    kill_at: float = 0.0


class Supervisor:
    """Owned by the main thread."""

    def __init__(self, plan: SupervisorPlan) -> None:
        self._plan = plan
        self._state = _State()
        self._pid = os.getpid()
        self._read_fd, self._write_fd = os.pipe()
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)

    def run(self) -> int:
        """Supervise until told to stop; return the exit code."""
        self._install_signals()
        self._start_node()
        while not self._over():
            self._start_missing()
            self._sleep()
            self._reap()
            self._announce()
            self._end_overdue()
        self._stop_node()
        return 0

    # -- signals and sleeping ---------------------------------------------------------------------

    def _install_signals(self) -> None:
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, self._on_stop)

    def _on_stop(self, signum: int, _frame: FrameType | None) -> None:
        state = self._state
        state.stopping = 2 if state.stopping or signum == signal.SIGQUIT else 1
        patience = self._plan.patience if state.stopping == 1 else 0.0
        _say(
            f"warm shutdown: running tasks have {patience:g} s; the same signal again ends at once"
            if state.stopping == 1
            else "cold shutdown: what runs is given back"
        )
        state.kill_at = _monotonic() + patience + KILL_AFTER
        for child in state.children.values():
            _kill(child.pid, signal.SIGTERM if state.stopping == 1 else signal.SIGQUIT)

    def _sleep(self) -> None:
        wake_at = _monotonic() + LONGEST_SLEEP
        state = self._state
        for child in state.children.values():
            for running in child.slot.running():
                if running.deadline and not child.killed:
                    wake_at = min(wake_at, running.deadline)
        if state.start_after:
            wake_at = min(wake_at, state.start_after)
        if state.stopping:
            wake_at = min(wake_at, state.kill_at)
        self._wait(max(wake_at - _monotonic(), 0.0))

    def _wait(self, timeout: float) -> None:
        readable, _, _ = select.select([self._read_fd], [], [], timeout)
        if readable:
            os.read(self._read_fd, 4096)

    def _over(self) -> bool:
        return bool(self._state.stopping and not self._state.children)

    # -- starting ---------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        state = self._state
        if state.stopping:
            return
        if state.start_after and _monotonic() < state.start_after:
            return
        state.start_after = 0.0
        while len(state.children) < self._plan.concurrency:
            slot = self._plan.board.free()
            if slot is None:  # the node has not buried the dead yet
                state.start_after = _monotonic() + 0.1
                return
            self._start_child(slot)

    def _start_child(self, slot: Slot) -> None:
        slot.clear()
        slot.state = SlotState.STARTING
        pid = os.fork()
        if not pid:
            os.close(self._state.node_wake_fd)
            self._become(lambda: self._plan.child_main(slot, self._write_fd, self._lives))
        slot.pid = pid
        self._state.children[pid] = _Child(pid, slot)
        telemetry.emit("child.started", pid=pid)

    def _start_node(self) -> None:
        read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        pid = os.fork()
        if not pid:
            os.close(write_fd)
            self._become(lambda: self._plan.node_main(read_fd, self._lives))
        os.close(read_fd)
        self._state.node_pid = pid
        self._state.node_wake_fd = write_fd

    def _become(self, main: Callable[[], None]) -> None:
        """In the forked process: leave everything of the supervisor behind and run ``main``."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
                signal.signal(signum, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            main()
            code = 0
        except BaseException:  # noqa: BLE001 -- nothing may unwind into the supervisor's frames
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _lives(self) -> bool:
        # Compared with the pid from before the fork: who is forked just before the supervisor dies
        # must not take its new parent for it.
        return os.getppid() == self._pid

    # -- ending -----------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._state.node_pid:
                self._node_died()
            elif pid in self._state.children:
                self._child_died(self._state.children.pop(pid), os.waitstatus_to_exitcode(status))

    def _child_died(self, child: _Child, code: int) -> None:
        slot, state = child.slot, self._state
        was_ready = slot.state in (SlotState.READY, SlotState.STOPPING)
        running = slot.running()
        slot.state = SlotState.GRAVE
        self._wake_node()
        telemetry.emit("child.ended", pid=child.pid, code=code)
        if was_ready:
            state.early_deaths = 0
        else:
            state.early_deaths += 1
            pause = backoff.exponential(state.early_deaths, 0.1, maximum=30.0, jitter=False)
            state.start_after = _monotonic() + pause
        if code == 0 and not running:
            return
        what = ", ".join(f"{each.name}[{each.id}]" for each in running[:5]) or "no task"
        logger.error("Process %d %s while running %s", child.pid, _how_it_ended(code), what)

    def _node_died(self) -> None:
        os.close(self._state.node_wake_fd)
        if self._state.stopping and not self._state.children:
            self._state.node_pid = 0
            return
        logger.error("The node process %d died; starting another", self._state.node_pid)
        self._start_node()

    def _wake_node(self) -> None:
        try:
            os.write(self._state.node_wake_fd, b"g")
        except (BlockingIOError, BrokenPipeError):
            return  # it is awake, or dead and its successor will look

    def _end_overdue(self) -> None:
        now = _monotonic()
        for child in self._state.children.values():
            if self._state.stopping and now >= self._state.kill_at:
                _kill(child.pid, signal.SIGKILL)
                continue
            over = [r for r in child.slot.running() if r.deadline and r.deadline <= now]
            if over and not child.killed:
                child.killed = True
                limit = over[0].deadline - over[0].started
                child.slot.verdict = f"time-limit {limit:g}"
                logger.error(
                    "Hard time limit (%gs) exceeded for %s[%s]", limit, over[0].name, over[0].id
                )
                _kill(child.pid, signal.SIGKILL)

    def _announce(self) -> None:
        ready = sum(child.slot.state is SlotState.READY for child in self._state.children.values())
        if not self._state.announced and ready == self._plan.concurrency:
            self._state.announced = True
            self._plan.on_ready()

    def _stop_node(self) -> None:
        """Close the node's pipe, which ends it; a signal could come before it listens."""
        state = self._state
        if not state.node_pid:
            return
        os.close(state.node_wake_fd)
        deadline = _monotonic() + NODE_PATIENCE
        while os.waitpid(state.node_pid, os.WNOHANG)[0] == 0:
            if _monotonic() >= deadline:
                _kill(state.node_pid, signal.SIGKILL)
                os.waitpid(state.node_pid, 0)
                return
            self._wait(deadline - _monotonic())


def may_fork() -> bool:
    """Tell whether this process has no other threads, so that a fork copies no held lock."""
    if threading.active_count() > 1:
        return False
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1
    except OSError:
        return True  # no /proc here (macOS): Python's own count has to do


def _say(text: str) -> None:
    """Tell the operator, whatever the log level is; from a signal handler."""
    os.write(2, f"umbel: {text}\n".encode())


def _kill(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    return f"was ended by {signal.Signals(-code).name}"
