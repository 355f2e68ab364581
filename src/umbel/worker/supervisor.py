"""The supervisor: starts, reaps and replaces a worker's processes, ends those over a limit.

Single-threaded, no connection to any server, no task code: nothing that could hang or crash it. It
sleeps in ``select`` on one pipe, into which the signal machinery and its children write, until the
next hard time limit on the board.

    TERM, INT   warm: children finish what they run; after ``patience`` seconds, give it back
    again, QUIT cold: everything is given back now
    HUP         warm, and then the worker starts anew, with the program as it is by then
    USR1        every process writes the stacks of its threads to stderr
    CHLD        reap; mark the slot as a grave for the node; start a successor

What is to be decided is decided elsewhere, by pure functions of what the board shows: who is
replaced in ``recycling``, how many there are in ``autoscale``.

A child that dies before it was ready is restarted with back-off. A child of its own keeps nothing
alive: when the supervisor is gone, children see that their parent changed and stop. As the first
process of a container it also reaps what tasks leave behind.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from umbel import backoff, telemetry
from umbel.clock import SYSTEM_CLOCK
from umbel.worker import recycling
from umbel.worker.autoscale import Autoscaler, Load
from umbel.worker.board import LIVING, Board, Running, Slot, SlotState
from umbel.worker.processes import (
    Child,
    Family,
    ParentLives,
    Stop,
    Wait,
    dump_stacks,
    how_it_ended,
    meanings,
    send,
)
from umbel.worker.terminating import CANCEL, GRACE

logger = logging.getLogger("umbel.worker")

#: Seconds between a child's own deadline at shutdown and the signal that ends it.
KILL_AFTER = 1.0
#: Longest sleep in seconds: a child may begin a task with a hard limit while the supervisor sleeps.
LONGEST_SLEEP = 0.25
#: Seconds that the node has to end.
NODE_PATIENCE = 5.0
#: What ``run`` returns when the worker shall start anew.
RESTART = -1

_WARM, _COLD = 1, 2

_monotonic = SYSTEM_CLOCK.monotonic


@dataclass(frozen=True, slots=True)
class SupervisorPlan:
    """What a supervisor keeps running."""

    board: Board
    concurrency: int
    #: Runs in the forked child; does not return. A successor gets what waits for its turn.
    child_main: Callable[[Slot, int, ParentLives, Wait | None], None]
    #: Runs in the forked node; returns when it shall end. Gets the fd that wakes it.
    node_main: Callable[[int, ParentLives], None]
    #: Seconds that running tasks have at a warm shutdown.
    patience: float
    on_ready: Callable[[], None]
    #: Decides how many children there are, instead of ``concurrency``.
    autoscaler: Autoscaler | None = None
    #: Called in every turn, at least four times a second.
    on_turn: Callable[[], None] = lambda: None
    #: Called when the end begins.
    on_stop: Stop = lambda *, restarting: None  # noqa: ARG005 -- the name is part of the protocol


@dataclass(slots=True)
class _State:
    early_deaths: int = 0
    start_after: float = 0.0
    announced: bool = False
    #: 0 = running, 1 = warm shutdown, 2 = cold.
    stopping: int = 0
    restarting: bool = False
    kill_at: float = 0.0
    #: When the node was started, how often it died soon after that, when to start another.
    node_started: float = 0.0
    node_deaths: int = 0
    node_after: float = 0.0


class Supervisor:
    """Owned by the main thread."""

    def __init__(self, plan: SupervisorPlan) -> None:
        self._plan = plan
        self._state = _State()
        self._meanings = meanings()
        self._read_fd, self._write_fd = os.pipe()
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)
        self._family = Family(plan.child_main, plan.node_main, self._write_fd)
        #: By pid.
        self._children = self._family.children

    def run(self) -> int:
        """Supervise until told to stop; return the exit code, or RESTART."""
        self._install_signals()
        while not self._over():
            self._start_node()
            self._scale()
            self._replace()
            self._start_missing()
            self._tell_of_the_end()
            self._plan.on_turn()
            self._sleep()
            self._reap()
            self._announce()
            self._end_overdue()
        self._stop_node()
        return RESTART if self._state.restarting else 0

    # -- signals and sleeping ---------------------------------------------------------------------

    def _install_signals(self) -> None:
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(signum, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_usr1)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Celery's debugger; children inherit it

    def _on_stop(self, signum: int, _frame: FrameType | None) -> None:
        state = self._state
        signum = self._meanings.get(signum, signum)
        if signum == signal.SIGHUP and state.stopping:
            return
        was_restarting, state.restarting = state.restarting, signum == signal.SIGHUP
        again = state.stopping and not was_restarting
        state.stopping = _COLD if again or signum == signal.SIGQUIT else _WARM
        patience = self._plan.patience if state.stopping == _WARM else 0.0
        _say(
            f"warm shutdown: running tasks have {patience:g} s; the same signal again ends at once"
            if state.stopping == _WARM
            else "cold shutdown: what runs is given back"
        )
        state.kill_at = _monotonic() + patience + KILL_AFTER

    def _on_usr1(self, signum: int, _frame: FrameType | None) -> None:
        dump_stacks()
        for pid in (*self._children, self._family.node_pid):
            send(pid, signum)

    def _tell_of_the_end(self) -> None:
        """Pass a shutdown on; not in the handler, which may come in the middle of a fork."""
        state = self._state
        if not state.stopping:
            return
        if not any(child.told for child in self._children.values()):
            self._plan.on_stop(restarting=state.restarting)
        for child in self._children.values():
            if child.told < state.stopping:
                child.told = state.stopping
                send(child.pid, signal.SIGTERM if state.stopping == _WARM else signal.SIGQUIT)
                child.begin()

    def _sleep(self) -> None:
        wake_at = _monotonic() + LONGEST_SLEEP
        state = self._state
        for child in self._children.values():
            for running in child.slot.running():
                if running.deadline and not child.condemned:
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
        return bool(self._state.stopping and not self._children)

    # -- how many, and who takes whose place ------------------------------------------------------

    @property
    def _wanted(self) -> int:
        scaler = self._plan.autoscaler
        return self._plan.concurrency if scaler is None else scaler.wanted

    def _scale(self) -> None:
        scaler = self._plan.autoscaler
        if scaler is None or self._state.stopping:
            return
        before = scaler.wanted
        loads = [
            Load(child.pid, child.slot.idle_since, child.slot.busy_since)
            for child in self._children.values()
            if child.slot.state is SlotState.READY and not child.retiring
        ]
        for pid in scaler.look(_monotonic(), loads):
            self._retire(self._children[pid])
        if scaler.wanted != before:
            logger.info("Autoscale: %d processes instead of %d", scaler.wanted, before)

    def _seen(self) -> list[recycling.Seen]:
        return [
            recycling.Seen(
                child.pid, child.slot.state, child.slot.worn, child.follows, child.retiring
            )
            for child in self._children.values()
        ]

    def _replace(self) -> None:
        if self._state.stopping:
            return
        for step, pid in recycling.steps(self._seen()):
            child = self._children[pid]
            match step:
                case recycling.Step.SUCCEED:
                    self._start(follows=pid)
                case recycling.Step.RETIRE:
                    self._retire(child)
                case recycling.Step.BEGIN:
                    child.begin()

    def _retire(self, child: Child) -> None:
        child.retiring = True
        send(child.pid, signal.SIGHUP)

    # -- starting ---------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        if self._state.stopping:
            return
        for _ in range(self._wanted - recycling.places(self._seen())):
            if not self._start():
                return

    def _start(self, *, follows: int = 0) -> bool:
        """Start a child, if the time has come and there is a slot; tell whether it was."""
        state = self._state
        if state.start_after and _monotonic() < state.start_after:
            return False
        state.start_after = 0.0
        slot = self._plan.board.free()
        if slot is None:  # the node has not buried the dead yet
            state.start_after = _monotonic() + 0.1
            return False
        self._family.start_child(slot, follows=follows)
        return True

    # -- ending -----------------------------------------------------------------------------------

    def _reap(self) -> None:
        for pid, code in self._family.reap():
            if pid == self._family.node_pid:
                self._node_died()
            elif pid in self._children:
                self._child_died(self._children.pop(pid), code)

    def _child_died(self, child: Child, code: int) -> None:
        slot, state = child.slot, self._state
        was_ready = slot.state in LIVING
        running = slot.running()
        if child.condemned:
            slot.keep_only(child.condemned)  # what ran beside them goes back free
        slot.state = SlotState.GRAVE
        self._family.wake_node()
        child.begin()  # closes its pipe
        telemetry.emit("child.ended", pid=child.pid, code=code)
        if was_ready:
            state.early_deaths = 0
        else:
            state.early_deaths += 1
            pause = backoff.exponential(state.early_deaths, 0.1, maximum=30.0, jitter=False)
            state.start_after = _monotonic() + pause
        if not running and (code == 0 or child.told):
            return
        what = ", ".join(f"{each.name}[{each.id}]" for each in running[:5]) or "no task"
        logger.error("Process %d %s while running %s", child.pid, how_it_ended(code), what)

    def _node_died(self) -> None:
        family, state, now = self._family, self._state, _monotonic()
        family.let_node_end()
        node_pid, family.node_pid = family.node_pid, 0
        if self._over():
            return
        logger.error("The node process %d died; starting another", node_pid)
        lived = now - state.node_started
        state.node_deaths = 1 if lived > NODE_PATIENCE else state.node_deaths + 1
        pause = backoff.exponential(state.node_deaths - 1, 0.1, maximum=30.0, jitter=False)
        state.node_after = now + (pause if state.node_deaths > 1 else 0.0)

    def _start_node(self) -> None:
        """Start the node if there is none, and the time has come."""
        now = _monotonic()
        if not self._family.node_pid and now >= self._state.node_after:
            self._state.node_started = now
            self._family.start_node()

    def _end_overdue(self) -> None:
        now = _monotonic()
        for child in self._children.values():
            if self._state.stopping and now >= self._state.kill_at:
                send(child.pid, signal.SIGKILL)
                continue
            tasks = child.slot.running()
            self._terminate(child, [r for r in tasks if r.ordered not in (0, CANCEL)], now)
            over = [r for r in tasks if r.deadline and r.deadline <= now]
            if over and not child.condemned:
                child.condemned = frozenset(running.id for running in over)
                limit = over[0].deadline - over[0].started
                child.slot.verdict = f"time-limit {limit:g}"
                logger.error(
                    "Hard time limit (%gs) exceeded for %s[%s]", limit, over[0].name, over[0].id
                )
                send(child.pid, signal.SIGKILL)

    def _terminate(self, child: Child, tasks: list[Running], now: float) -> None:
        """End a child for what shall not run there: by the signal asked for, then by KILL."""
        if not tasks:
            if child.kill_at:  # the signal has ended the task, and not its process
                child.condemned, child.kill_at, child.slot.verdict = frozenset(), 0.0, ""
        elif not child.condemned:
            child.condemned = frozenset(task.id for task in tasks)
            child.kill_at = now + GRACE
            child.slot.verdict = "terminated"
            # TERM means a warm end to our children, which would wait for the task.
            signum = tasks[0].ordered
            send(child.pid, signal.SIGKILL if signum == signal.SIGTERM else signum)
        elif child.kill_at and now >= child.kill_at:
            send(child.pid, signal.SIGKILL)

    def _announce(self) -> None:
        ready = sum(child.slot.state is SlotState.READY for child in self._children.values())
        if not self._state.announced and ready >= self._wanted:
            self._state.announced = True
            self._plan.on_ready()

    def _stop_node(self) -> None:
        pid = self._family.node_pid
        if not pid:
            return
        self._family.let_node_end()
        deadline = _monotonic() + NODE_PATIENCE
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if _monotonic() >= deadline:
                send(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            self._wait(deadline - _monotonic())


def _say(text: str) -> None:
    """Tell the operator, whatever the log level is; from a signal handler."""
    os.write(2, f"umbel: {text}\n".encode())
