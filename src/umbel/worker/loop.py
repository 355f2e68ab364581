"""The asyncio loop of a worker process: a thread that runs coroutine tasks, many at a time.

The pump submits batches, the loop runs each message as an asyncio task; effects gather in the
outbox, and the pump is rung once per turn of the loop. However many come at once, it begins a few
in each turn: in between what runs goes on, and lanes and pump get the interpreter.

Soft and hard limits cancel the task: the first as SoftTimeLimitExceeded, the second as
TimeLimitExceeded; a coroutine that swallows its cancellation, or blocks the loop, is ended with its
process by the supervisor a little later.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from umbel import context
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from umbel.executor import execute_async
from umbel.message import Effects, Outcome
from umbel.worker.lane import Desk, Done, Item, reporter
from umbel.worker.service import Prepared, Service

if TYPE_CHECKING:
    from umbel.worker.board import Slot

#: Seconds that the loop has to cancel a task over its hard limit before the supervisor steps in.
GRACE = 2.0

#: Tasks that begin in one turn of the loop, and the seconds that a turn lets the pump work before:
#: what it fetches may be for the lanes. No longer, as the pump may wait for others itself.
SLICE, YIELD = 32, 0.005

#: Seconds to wait for the loop's thread to end.
STOP_PATIENCE = 1.0

_monotonic = SYSTEM_CLOCK.monotonic


class Loop:
    """Owned by its thread; ``submit`` and ``stop`` may be called from any."""

    def __init__(
        self, desk: Desk, service: Service, *, slot: Slot, first_entry: int, pid: int
    ) -> None:
        self._desk = desk
        self._service = service
        self._slot = slot
        self._pid = pid
        self._entries = list(range(slot.entries - 1, first_entry - 1, -1))
        #: How many coroutine tasks it runs at most.
        self.limit = len(self._entries)
        #: How many run or wait to run. Read by the pump.
        self.count = 0
        self._counting = threading.Lock()
        self._flushing = False
        #: Submitted and not begun; and whether something is on its way to begin it.
        self._waiting: deque[Item] = deque()
        self._beginning = False
        #: What runs: its id, and what its cancellation stands for.
        self._running: dict[asyncio.Task[None], tuple[str, list[BaseException]]] = {}
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(started,), name="umbel-loop", daemon=True
        )
        self._thread.start()
        self._loop = started.result()

    def submit(self, items: Sequence[Item]) -> None:
        """Run these. Any thread."""
        with self._counting:
            self.count += len(items)
        self._loop.call_soon_threadsafe(self._arrive, items)

    def stop(self) -> None:
        """Cancel what runs and end the thread, unless a task blocks it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_PATIENCE)

    def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            asyncio.set_event_loop(loop)
            started.set_result(loop)
            loop.run_forever()

    def _arrive(self, items: Sequence[Item]) -> None:
        self._waiting += items
        if not self._beginning:
            self._begin()

    def _begin(self) -> None:
        if self._desk.gate.closed:
            self._desk.gate.wait(YIELD)
        for _ in range(min(SLICE, len(self._waiting))):
            item, reasons = self._waiting.popleft(), list[BaseException]()
            task = self._loop.create_task(self._run(item, reasons))
            self._running[task] = (item.delivery.message.id, reasons)
            task.add_done_callback(self._running.pop)
        self._beginning = bool(self._waiting)
        if self._beginning:
            self._loop.call_soon(self._begin)

    def cancel(self, task_id: str) -> None:
        """Cancel a task that has begun, as revoked. Any thread, signal handlers too."""
        self._loop.call_soon_threadsafe(self._cancel, task_id)

    def _cancel(self, task_id: str) -> None:
        for task, (running_id, reasons) in self._running.items():
            if running_id == task_id:
                reasons.append(TaskRevokedError("terminated"))
                task.cancel()

    async def _run(self, item: Item, reasons: list[BaseException]) -> None:
        # Without an entry, when a lane passed on more than the limit, the board knows less.
        entry = self._entries.pop() if self._entries else None
        started = _monotonic()
        if entry is not None:
            self._slot.begin(entry, (*item.label(), started, 0.0))
        effects = await self._effects(item, reasons, entry, started)
        if entry is not None:
            self._slot.end(entry)
            self._entries.append(entry)
        self._leave(Done(effects))
        with self._counting:  # after that, so that at 0 all effects are in the outbox
            self.count -= 1

    async def _effects(
        self, item: Item, reasons: list[BaseException], entry: int | None, started: float
    ) -> Effects:
        prepared = self._service.prepare(item.delivery)
        if isinstance(prepared, Effects):
            return prepared
        if entry is not None and (prepared.hard or not item.name):
            deadline = started + prepared.hard + GRACE if prepared.hard else 0.0
            self._slot.begin(entry, (*prepared.label(), started, deadline))
        if prepared.bound.track_started:
            self._leave(Done(self._service.started(prepared, self._pid, held=item.held)))
        context.reporter.set(reporter(self._desk, self._service, prepared, held=item.held))
        outcome = await self._execute(prepared, reasons)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked, and its copy came back here
        return self._service.effects(prepared, outcome, held=item.held)

    async def _execute(self, prepared: Prepared, reasons: list[BaseException]) -> Outcome:
        def why() -> BaseException | None:
            return reasons[-1] if reasons else None

        if not prepared.soft and not prepared.hard:
            return await execute_async(prepared.bound, prepared.request, why=why)
        me = asyncio.current_task()
        assert me is not None

        def cancel(error: BaseException) -> None:
            reasons.append(error)
            me.cancel()

        timers = [
            self._loop.call_later(seconds, cancel, error)
            for seconds, error in (
                (prepared.soft, SoftTimeLimitExceeded()),
                (prepared.hard, TimeLimitExceeded(prepared.hard)),
            )
            if seconds
        ]
        try:
            return await execute_async(prepared.bound, prepared.request, why=why)
        finally:
            for timer in timers:
                timer.cancel()

    def _leave(self, done: Done) -> None:
        self._desk.outbox.append(done)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._desk.ring()
