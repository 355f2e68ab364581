"""How a worker's parts become processes: under a supervisor, or all in this one (solo).

What a supervisor needs to know is a ``Shape``, which knows no application: where the application
must not be imported before a fork, it has nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from umbel import signals
from umbel.clock import SYSTEM_CLOCK
from umbel.worker import endpoint, health
from umbel.worker.autoscale import Autoscaler
from umbel.worker.board import Board, Slot, SlotState
from umbel.worker.child import ChildPlan, run_child
from umbel.worker.engine import Engine
from umbel.worker.node import Node
from umbel.worker.notify import Notifier
from umbel.worker.outages import Outages
from umbel.worker.processes import ParentLives, Wait, dump_stacks_on_usr1
from umbel.worker.rates import Budgets
from umbel.worker.supervisor import Supervisor, SupervisorPlan

_monotonic = SYSTEM_CLOCK.monotonic


@dataclass(frozen=True, slots=True)
class Shape:
    """What a supervisor must know of a worker; all that it needs no application for."""

    node: str
    #: Children that run tasks.
    processes: int
    #: Tasks that one child runs at a time, at most.
    entries: int
    #: Seconds that running tasks have at a warm shutdown.
    patience: float
    #: Least processes, if their number follows the load; 0 = it does not.
    least: int = 0
    #: Where probes are answered; "" = nowhere.
    health: str = ""
    #: A file that is there, and fresh, while the worker is alive; "" = none.
    health_file: str = ""


class Maker(Protocol):
    """Makes the parts of a worker in the process that will run them."""

    def make_engine(
        self,
        slot: Slot,
        parent_lives: ParentLives,
        *,
        ring: Callable[[], None] | None,
        budgets: Budgets | None,
    ) -> Engine:
        """Make what runs tasks."""
        ...

    def begin(self) -> None:
        """Be told that tasks will run in this process."""
        ...

    def make_node(self, board: Board, on_look: Callable[[], None]) -> Node:
        """Make what speaks for all."""
        ...


def supervise(shape: Shape, make_worker: Callable[[], Maker], on_ready: Callable[[], None]) -> int:
    """Run a worker's processes until a signal ends them; return the exit code, or RESTART.

    ``make_worker`` is called in each forked process.
    """
    board = Board(2 * shape.processes + 4, entries=shape.entries)
    budgets = Budgets()
    listener = _claim(shape)
    notifier, outages = Notifier(), Outages(board)

    def child_main(slot: Slot, ring_fd: int, parent_lives: ParentLives, wait: Wait | None) -> None:
        if listener is not None:
            listener.close()
        _run_child(make_worker(), shape, slot, ring_fd, parent_lives, wait, budgets)

    def node_main(wake_fd: int, parent_lives: ParentLives) -> None:
        node = make_worker().make_node(board, _looker(board, shape, listener))
        # TERM may come to the whole group; the node ends when the supervisor closes its pipe.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        node.run(parent_lives, wake_fd)

    def ready() -> None:
        notifier.ready(shape.node)
        on_ready()

    def turn() -> None:
        outages.look(_monotonic())
        notifier.turn(_monotonic(), alive=health.watch(board).alive)

    plan = SupervisorPlan(
        board=board,
        concurrency=shape.processes,
        child_main=child_main,
        node_main=node_main,
        patience=shape.patience,
        on_ready=ready,
        autoscaler=Autoscaler(shape.processes, shape.least) if shape.least else None,
        on_turn=turn,
        on_stop=notifier.stopping,
    )
    try:
        return Supervisor(plan).run()
    finally:
        _tidy_up(shape)


def run_solo(
    worker: Maker, shape: Shape, *, on_ready: Callable[[], None], on_end: Callable[[bool], None]
) -> None:
    """Run all of a worker in this process. Does not return, but calls ``on_end`` at its end.

    ``on_end`` is told whether the worker shall start anew.
    """
    board = Board(1, entries=shape.entries)
    notifier, outages = Notifier(), Outages(board)
    listener = _claim(shape)
    look = _looker(board, shape, listener)

    def look_and_tell() -> None:
        look()
        outages.look(_monotonic())
        notifier.turn(_monotonic(), alive=health.watch(board).alive)

    node = worker.make_node(board, look_and_tell)
    thread = threading.Thread(
        target=node.run, args=(lambda: True, None), name="umbel-node", daemon=True
    )
    slot = board.slots[0]
    slot.state = SlotState.STARTING

    def ready() -> None:
        notifier.ready(shape.node)
        on_ready()

    def start() -> None:
        worker.begin()
        thread.start()

    def end(*, restarting: bool) -> None:
        notifier.stopping(restarting=restarting)
        node.stop()
        thread.join(shape.patience)
        _tidy_up(shape)
        on_end(restarting)

    dump_stacks_on_usr1()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    plan = ChildPlan(
        parent_lives=lambda: True,
        make_engine=functools.partial(worker.make_engine, ring=None, budgets=None),
        patience=shape.patience,
        on_ready=ready,
        on_start=start,
        on_stop=end,
        alone=True,
    )
    run_child(plan, slot)


def _run_child(
    worker: Maker,
    shape: Shape,
    slot: Slot,
    ring_fd: int,
    parent_lives: ParentLives,
    wait: Wait | None,
    budgets: Budgets,
) -> None:
    def ring() -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # awake, or gone
            os.write(ring_fd, b"r")

    def tell_of_the_end(*, restarting: bool) -> None:  # noqa: ARG001 -- only solo starts anew itself
        signals.worker_process_shutdown.send(None, pid=os.getpid(), exitcode=0)

    def start() -> None:
        worker.begin()
        signals.worker_process_init.send(None)

    plan = ChildPlan(
        parent_lives=parent_lives,
        make_engine=functools.partial(worker.make_engine, ring=ring, budgets=budgets),
        patience=shape.patience,
        on_ready=ring,
        on_start=start,
        on_stop=tell_of_the_end,
        wait_for_turn=wait,
    )
    run_child(plan, slot)


def _claim(shape: Shape) -> socket.socket | None:
    """Take what its health is shown by; what cannot be had is an error at the start."""
    if shape.health_file:
        health.claim(Path(shape.health_file))
    return endpoint.bind(shape.health) if shape.health else None


def _looker(board: Board, shape: Shape, listener: socket.socket | None) -> Callable[[], None]:
    """Answer probes from now on; return what the node does about its health in each turn."""

    def judge() -> health.Health:
        return health.judge(board, _monotonic())

    def look() -> None:
        board.node_turned_at = _monotonic()
        if shape.health_file:
            health.show(judge(), Path(shape.health_file))

    if listener is not None:
        endpoint.serve(listener, judge)
    return look


def _tidy_up(shape: Shape) -> None:
    for path in (shape.health_file, shape.health if "/" in shape.health else ""):
        if path:
            Path(path).unlink(missing_ok=True)
