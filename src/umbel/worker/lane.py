"""A lane: a thread that runs synchronous tasks, one at a time.

In the process pool the child's main thread is its only lane, so that soft limits and signals work
in it. ``--pool threads`` has several. A lane takes deliveries from the inbox, in batches as the
pump puts them there, and leaves effects in the outbox; it talks to no server. It rings the pump
when it runs out of work, or when effects have waited for ``FLUSH`` seconds: a result is never held
back by the tasks behind it, and a thousand trivial tasks are few commits.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from umbel import context
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import SoftTimeLimitExceeded
from umbel.executor import execute, judge
from umbel.message import Delivery, Effects, Outcome
from umbel.values import value
from umbel.wire.task import Request
from umbel.worker.service import Prepared, Service

if TYPE_CHECKING:
    from umbel.worker.board import Slot
    from umbel.worker.limits import SoftLimit

#: Seconds that effects may wait for others before the pump is rung.
FLUSH = 0.004

_monotonic = SYSTEM_CLOCK.monotonic


@value
class Item:
    """A delivery on its way to a lane; ``held`` is false if it was acknowledged before."""

    delivery: Delivery
    #: The task's name as the header says it, for the window; "" if it says none.
    name: str
    held: bool = True

    def label(self) -> tuple[bytes, bytes]:
        """Return what the board calls it before it is decoded: id and name."""
        return self.delivery.message.id.encode(errors="replace"), self.name.encode(errors="replace")


@value
class Done:
    """Effects on their way to the pump, with what the window learns from them."""

    #: None = another thread makes them (a coroutine task that only decoding could recognise).
    effects: Effects | None
    #: The name its Item had; None = it came in none.
    name: str | None = None
    runtime: float = 0.0


@dataclass(slots=True)
class Desk:
    """What lanes, loop and pump share: two queues and a bell. All operations are atomic."""

    #: Rings the pump.
    ring: Callable[[], None]
    #: Closed while the pump works in an embedded server, whose other users wait for it: a lane that
    #: went on would take the interpreter from it for a switch interval at each of its steps.
    gate: Gate
    inbox: SimpleQueue[Item | None] = field(default_factory=SimpleQueue)
    outbox: deque[Done] = field(default_factory=deque)
    #: Passes a coroutine task that only decoding could recognise on to the loop.
    to_loop: Callable[[Sequence[Item]], None] | None = None
    #: Called by lanes after each task; None = the memory of the process has no limit.
    weigh: Callable[[], None] | None = None


class Gate:
    """What lanes pass between two tasks; open unless somebody has closed it."""

    __slots__ = ("_lock", "closed")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.closed = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self.closed = True

    def __exit__(self, *_: object) -> None:
        self.closed = False
        self._lock.release()

    def wait(self, timeout: float = -1.0) -> None:
        """Wait until it is open, or for so many seconds. For when ``closed`` was seen."""
        if self._lock.acquire(timeout=timeout):
            self._lock.release()


class Lane:
    """Runs synchronous tasks. Everything but ``busy_since`` belongs to its thread."""

    def __init__(
        self, index: int, desk: Desk, service: Service, *, slot: Slot, limit: SoftLimit, pid: int
    ) -> None:
        self.index = index
        #: Monotonic time since which a task runs; 0 = idle. Read by the pump.
        self.busy_since = 0.0
        self._desk = desk
        self._service = service
        self._slot = slot
        self._limit = limit
        self._pid = pid
        self._flush_at = 0.0

    def run(self) -> None:
        """Run what comes until None comes."""
        take, gate, weigh = self._desk.inbox.get, self._desk.gate, self._desk.weigh
        while (item := take()) is not None:
            if gate.closed:
                gate.wait()
            self.step(item)
            if weigh is not None:
                weigh()

    def step(self, item: Item) -> None:
        """Run one delivery, here and now, and leave its effects."""
        started = self.busy_since = _monotonic()
        # Before anything of the message is decoded: that may run code of users as well.
        self._slot.begin(self.index, (*item.label(), started, 0.0))
        effects = self._effects(item, started)
        self._slot.end(self.index)
        self.busy_since = 0.0
        now = _monotonic()
        self._leave(Done(effects, item.name, now - started), now)

    def _effects(self, item: Item, started: float) -> Effects | None:
        prepared = self._service.prepare(item.delivery)
        if isinstance(prepared, Effects):
            return prepared
        if prepared.bound.is_async and self._desk.to_loop is not None:
            self._desk.to_loop([item])
            return None
        if prepared.hard or not (item.name and item.delivery.message.id):
            deadline = started + prepared.hard if prepared.hard else 0.0
            self._slot.begin(self.index, (*prepared.label(), started, deadline))
        if prepared.bound.track_started:
            self._leave(Done(self._service.started(prepared, self._pid, held=item.held)), 0.0)
        context.reporter.set(reporter(self._desk, self._service, prepared, held=item.held))
        outcome = (
            self._execute(prepared) if prepared.soft else execute(prepared.bound, prepared.request)
        )
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked, and its copy came back here
        return self._service.effects(prepared, outcome, held=item.held)

    def _execute(self, prepared: Prepared) -> Outcome:
        bound, request = prepared.bound, prepared.request
        try:
            self._limit.arm(prepared.soft or 0.0)
            try:
                return execute(bound, request)
            finally:
                self._limit.disarm()
        except SoftTimeLimitExceeded as error:  # it rang between the task's end and disarming
            return judge(bound, request, error, prepared.soft or 0.0)

    def _leave(self, done: Done, now: float) -> None:
        desk = self._desk
        desk.outbox.append(done)
        if now >= self._flush_at or desk.inbox.empty():
            self._flush_at = now + FLUSH
            desk.ring()


def reporter(desk: Desk, service: Service, prepared: Prepared, *, held: bool) -> context.Reporter:
    """Return what ``update_state`` calls in this task: its progress is fenced like its result."""

    def report(_request: Request, state: str, meta: Any) -> None:
        desk.outbox.append(Done(service.progress(prepared, state, meta, held=held)))
        desk.ring()

    return report
