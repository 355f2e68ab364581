"""Runs the worker's engine inside the test's process, in threads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from umbel import Umbel
from umbel.clock import SYSTEM_CLOCK
from umbel.opened import Servers
from umbel.worker.board import Board
from umbel.worker.engine import Engine
from umbel.worker.launch import Worker, WorkerOptions

#: Seconds that running tasks get when a test ends.
PATIENCE = 60.0


@contextmanager
def running(
    app: Umbel,
    *,
    lanes: int = 1,
    queues: tuple[str, ...] = (),
    servers: Servers | None = None,
    board: Board | None = None,
) -> Generator[Engine]:
    """Run an engine of this application while the block runs; assert that it stops."""
    options = WorkerOptions(pool="threads", concurrency=lanes, queues=queues)
    worker = Worker(app, options)
    board = board or Board(1, entries=lanes + 100)
    engine = worker.make_engine(board.slots[0], lambda: True, servers=servers)
    engine.start(lane_here=False)
    try:
        yield engine
    finally:
        engine.stop(SYSTEM_CLOCK.monotonic() + PATIENCE)
        assert engine.join(PATIENCE + 5)
