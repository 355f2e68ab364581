"""A worker child: a process around one engine. Its main thread runs the synchronous tasks.

Signals: TERM = finish what runs, until the deadline the supervisor gave; HUP = finish what runs,
however long it takes, because others do the work; QUIT = give everything back and end now; URG =
cancel the coroutines that the board names. INT is ignored: a terminal sends it to the whole group,
and the supervisor decides.

A thread of its own acts upon them. Python runs handlers in the main thread, when that next runs
Python code: it may be inside a task's C code for minutes, or have looked for signals just before it
began to wait for work. What a task forks gets signals as any other process does.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from umbel import backoff
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost
from umbel.worker.board import Slot, SlotState
from umbel.worker.engine import Engine
from umbel.worker.processes import Stop, meanings
from umbel.worker.terminating import CANCEL

#: Seconds between thread switches; beside CPU-bound tasks the pump gets the interpreter this soon.
SWITCH_INTERVAL = 0.0005
#: What asks it to end.
STOPPING = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """How a child is to run."""

    #: Tells whether the process that this one depends on still lives.
    parent_lives: Callable[[], bool]
    make_engine: Callable[[Slot, Callable[[], bool]], Engine]
    #: Seconds that running tasks have after TERM.
    patience: float
    on_ready: Callable[[], object]
    on_start: Callable[[], object]
    #: Called when everything was committed or given back.
    on_stop: Stop
    #: Returns when a successor may begin; None = it may at once.
    wait_for_turn: Callable[[], None] | None = None
    #: There is no supervisor: the signals mean what they mean to one.
    alone: bool = False


def run_child(plan: ChildPlan, slot: Slot) -> None:
    """Be a worker child until told to stop. Called in the forked process; does not return."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    engine = _make_engine(plan, slot)
    signals = _Signals(engine, plan)
    signals.install()
    plan.on_start()
    if plan.wait_for_turn is not None:
        slot.state = SlotState.STANDBY
        plan.on_ready()
        plan.wait_for_turn()
    engine.start(lane_here=True)
    plan.on_ready()
    watcher = threading.Thread(target=_exit_when_stopped, args=(engine, plan, signals), daemon=True)
    watcher.start()
    engine.run_here()
    watcher.join()


def _make_engine(plan: ChildPlan, slot: Slot) -> Engine:
    """Make the engine; while the broker does not answer, wait for it."""
    attempt = 0
    while True:
        try:
            engine = plan.make_engine(slot, plan.parent_lives)
        except ConnectionLost as error:
            if not attempt:
                slot.trouble.begin(SYSTEM_CLOCK.monotonic(), str(error))
        else:
            slot.trouble.end()
            return engine
        SYSTEM_CLOCK.sleep(backoff.exponential(attempt, 0.1, maximum=5.0))
        attempt += 1
        if not plan.parent_lives():
            os._exit(0)


class _Signals:
    """What listens to signals. ``act`` may be called from any thread."""

    def __init__(self, engine: Engine, plan: ChildPlan) -> None:
        #: The worker shall start anew when it has ended.
        self.restarting = False
        self._engine = engine
        self._plan = plan
        self._asked = False
        self._meanings = meanings() if plan.alone else {}
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def install(self) -> None:
        """Begin to listen. The main thread."""
        self._claim()
        threading.Thread(target=self._listen, name="umbel-signals", daemon=True).start()
        for signum in (*STOPPING, CANCEL):
            signal.signal(signum, self._handle)
        if not self._plan.alone:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING),
            after_in_child=_restore_signals,
        )

    def act(self, signum: int) -> None:
        """Do what a signal asks for."""
        signum = self._meanings.get(signum, signum)
        if signum == CANCEL:
            self._engine.cancel_ordered()
        elif signum == signal.SIGHUP and not self._plan.alone:
            self._engine.stop(math.inf)
        elif signum in STOPPING and not (signum == signal.SIGHUP and self._asked):
            self._stop(signum)

    def _stop(self, signum: int) -> None:
        # Under a supervisor the signal may come twice, from it and to the whole group; a wish to
        # end at once comes from it as QUIT.
        again = self._asked and self._plan.alone and not self.restarting
        patience = 0.0 if again or signum == signal.SIGQUIT else self._plan.patience
        self._asked, self.restarting = True, signum == signal.SIGHUP
        self._engine.stop(SYSTEM_CLOCK.monotonic() + patience)

    def _claim(self) -> bool:
        """Let signals be written into the pipe; tell whether they were already."""
        return signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False) == self._write_fd

    def _listen(self) -> None:
        while True:
            for signum in os.read(self._read_fd, 64):
                self.act(signum)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        # A task may have put another descriptor there, as asyncio does, and then taken it away.
        if not self._claim():
            self.act(signum)


def _restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in STOPPING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _exit_when_stopped(engine: Engine, plan: ChildPlan, signals: _Signals) -> None:
    # The main thread may be inside a task that outlived the deadline; only leaving ends that.
    # What it ran was given back by then.
    engine.join()
    plan.on_stop(restarting=signals.restarting)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
