"""A worker in this process: the real engine, its threads beside the test's own."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Literal

from umbel import states
from umbel.app import Umbel
from umbel.clock import SYSTEM_CLOCK
from umbel.message import Outcome
from umbel.opened import clock_of
from umbel.testing.clock import FakeClock
from umbel.testing.probe import Probe
from umbel.wire.task import Request
from umbel.worker.board import Board
from umbel.worker.launch import Worker, WorkerOptions

logger = logging.getLogger("umbel.testing")

#: Seconds that running tasks get when the block ends.
PATIENCE = 10.0


class RunningWorker:
    """A worker that runs in this process until its block ends."""

    def __init__(self, app: Umbel, queues: Sequence[str], probe: Probe) -> None:
        self.app = app
        self.queues = queues
        self._probe = probe

    def wait_until_idle(self, timeout: float = PATIENCE) -> None:
        """Wait until its queues are empty and nothing runs; delayed messages are not waited for."""
        self._probe.wait_until(self._idle, f"empty queues {list(self.queues)}", timeout=timeout)

    def _idle(self) -> bool:
        depths = self.app.servers().broker.transport.depth(self.queues).values()
        return not any(depth.ready or depth.held for depth in depths)


@contextmanager
def running_worker(
    app: Umbel,
    *,
    pool: Literal["solo", "threads"] = "solo",
    concurrency: int = 0,
    queues: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shutdown_timeout: float = PATIENCE,
) -> Generator[RunningWorker]:
    """Run a worker of the application in threads of this process while the block runs.

    Synchronous tasks run one at a time, or, with the pool ``threads``, as many as ``concurrency``
    or the setting ``worker_concurrency`` says. A FakeClock goes by itself from here on: its owner
    may still move it ahead. Failures are logged by ``umbel.testing``.
    Fails when a task still runs ``shutdown_timeout`` seconds after the end of the block.
    """
    if pool not in ("solo", "threads"):
        raise ValueError(f"expected the pool solo or threads, got {pool!r}: it is this process")
    app.import_default_modules()
    lanes = 1 if pool == "solo" else concurrency or app.conf.worker_concurrency or 1
    options = WorkerOptions(
        pool="threads",
        concurrency=lanes,
        queues=tuple(queues),
        exclude=tuple(exclude),
        after=(_log_failure,),
    )
    worker = Worker(app, options)
    board = Board(1, entries=lanes + app.conf.worker_async_concurrency)
    clock = clock_of(app.conf.current().values)
    if isinstance(clock, FakeClock):
        clock.go()
    with Probe() as probe:
        engine = worker.make_engine(board.slots[0], lambda: True)
        forget = clock.subscribe(engine.wake) if isinstance(clock, FakeClock) else lambda: None
        engine.start(lane_here=False)
        try:
            yield RunningWorker(app, [queue.name for queue in worker.queues], probe)
        finally:
            forget()
            engine.stop(SYSTEM_CLOCK.monotonic() + shutdown_timeout)
            if not engine.join(shutdown_timeout + PATIENCE):
                raise AssertionError(f"a task still ran {shutdown_timeout} s after the test's end")


def _log_failure(request: Request, outcome: Outcome) -> None:
    if outcome.state == states.FAILURE:
        logger.error("%s[%s] failed: %s", request.task, request.id, outcome.traceback)
