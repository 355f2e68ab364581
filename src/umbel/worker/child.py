"""A worker child: a process around one engine. Its main thread runs the synchronous tasks.

Signals: TERM = finish what runs, until the deadline the supervisor gave; HUP = finish what runs,
however long it takes, because others do the work; QUIT = give everything back and end now; URG =
cancel the coroutines that the board names. INT is ignored: a terminal sends it to the whole group,
and the supervisor decides.
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

from umbel.clock import SYSTEM_CLOCK
from umbel.worker.board import Slot, SlotState
from umbel.worker.engine import Engine
from umbel.worker.terminating import CANCEL

#: Seconds between thread switches; beside CPU-bound tasks the pump gets the interpreter this soon.
SWITCH_INTERVAL = 0.0005


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
    on_stop: Callable[[], object]
    #: Returns when a successor may begin; None = it may at once.
    wait_for_turn: Callable[[], None] | None = None
    #: INT stops it too, as when it is alone in the terminal.
    interruptible: bool = False


def run_child(plan: ChildPlan, slot: Slot) -> None:
    """Be a worker child until told to stop. Called in the forked process; does not return."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    engine = plan.make_engine(slot, plan.parent_lives)
    _install_signals(engine, plan)
    plan.on_start()
    if plan.wait_for_turn is not None:
        slot.state = SlotState.STANDBY
        plan.on_ready()
        plan.wait_for_turn()
    engine.start(lane_here=True)
    plan.on_ready()
    watcher = threading.Thread(target=_exit_when_stopped, args=(engine, plan), daemon=True)
    watcher.start()
    engine.run_here()
    watcher.join()


def _install_signals(engine: Engine, plan: ChildPlan) -> None:
    asked = False

    def warm(_signum: int, _frame: FrameType | None) -> None:
        nonlocal asked
        # Under a supervisor the signal may come twice, from it and to the whole group; a wish to
        # end at once comes from it as QUIT.
        at_once = asked and plan.interruptible
        engine.stop(SYSTEM_CLOCK.monotonic() + (0.0 if at_once else plan.patience))
        asked = True

    def retire(_signum: int, _frame: FrameType | None) -> None:
        engine.stop(math.inf)

    def cold(_signum: int, _frame: FrameType | None) -> None:
        engine.stop(SYSTEM_CLOCK.monotonic())

    signal.signal(CANCEL, lambda _signum, _frame: engine.cancel_ordered())
    signal.signal(signal.SIGTERM, warm)
    signal.signal(signal.SIGQUIT, cold)
    signal.signal(signal.SIGHUP, warm if plan.interruptible else retire)
    signal.signal(signal.SIGINT, warm if plan.interruptible else signal.SIG_IGN)


def _exit_when_stopped(engine: Engine, plan: ChildPlan) -> None:
    # The main thread may be inside a task that outlived the deadline; only leaving ends that.
    # What it ran was given back by then.
    engine.join()
    plan.on_stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
