"""``run_until_idle``: run what waits on a ``memory://`` broker, here and now, one task at a time.

It takes the turns that a worker with one process takes: receive the first message that is due,
refuse it or run it, commit what follows. Parts and semantics are the worker's own (priorities,
retries, links, chains, chords, expiry, revocation, dead letters, soft time limits), only the
threads are missing: synchronous tasks run in the calling thread, coroutine tasks one after the
other in a loop that lasts as long as the call. So a test is the same at each run, and a breakpoint
in a task is where one sits.

Time does not pass by itself unless the clock goes; ``advance`` moves it to the next due time each
time nothing else is left. What a worker does on its machine's clock stays on it: time limits.
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from umbel import ids, states
from umbel.app import Umbel
from umbel.exceptions import ImproperlyConfigured, NotRegistered, TaskRevokedError
from umbel.message import Delivery, Effects, Ending, Outcome
from umbel.opened import clock_of
from umbel.serializers import get
from umbel.servers.seams import Consumer
from umbel.testing.calls import Call, call_of, memory_transport
from umbel.testing.clock import FakeClock
from umbel.wire.result import decode_meta, result_of
from umbel.wire.task import Request
from umbel.worker.board import Board
from umbel.worker.lane import Desk, Gate, Item, Lane
from umbel.worker.launch import Worker, WorkerOptions
from umbel.worker.limits import ThreadLimit
from umbel.worker.loop import Loop

#: Runs after which a test is taken to go on for ever.
LIMIT = 1000
#: Seconds of the lease that nobody renews, for a clock may jump by days.
_LEASE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Call):
    """A call that was received, and what became of it."""

    #: As in ``umbel.states``: SUCCESS, FAILURE, RETRY, REVOKED (or expired), REJECTED, IGNORED
    #: (or replaced by another).
    state: str
    #: What the task returned.
    value: Any = None
    #: What it raised, or why it did not run.
    error: BaseException | None = None
    #: Why it is among the dead letters; "" = it is not.
    dead: str = ""


class NotIdle(AssertionError):
    """Tasks run and run: one seems to send itself for ever."""


def run_until_idle(
    app: Umbel,
    *,
    queues: Sequence[str] | None = None,
    advance: bool = False,
    propagate: bool = True,
    limit: int = LIMIT,
) -> list[Run]:
    """Run all that is due, and what follows from it, until nothing is; return what ran, in order.

    With ``advance`` the clock is moved to the next due time again and again, until nothing waits at
    all. ``queues`` are those to serve, all unless given. When a task fails for good, its exception
    is raised after all has been committed, unless ``propagate`` is false.
    Raises NotIdle after ``limit`` runs.
    """
    until = math.inf if advance else None
    return _drain(app, queues, until=until, propagate=propagate, limit=limit)


def run_for(
    app: Umbel,
    time: float | timedelta,
    *,
    queues: Sequence[str] | None = None,
    propagate: bool = True,
    limit: int = LIMIT,
) -> list[Run]:
    """Let so much time pass (seconds): run what is due in it, each when it is due.

    The application's clock must be a FakeClock; after the call it is ahead by just this time.
    Otherwise as ``run_until_idle``.
    """
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    until = _movable(app).now() + seconds
    ran = _drain(app, queues, until=until, propagate=propagate, limit=limit)
    _move(_movable(app), until)
    return ran


def _drain(
    app: Umbel,
    queues: Sequence[str] | None,
    *,
    until: float | None,
    propagate: bool,
    limit: int,
) -> list[Run]:
    solo = _Solo(app, queues)
    ran: list[Run] = []
    try:
        while True:
            delivery = solo.receive()
            if delivery is None:
                if until is None or not solo.advance(until):
                    return ran
                continue
            if len(ran) >= limit:
                raise NotIdle(_too_many(ran))
            ran.append(solo.run(delivery))
            _raise_error(ran[-1], propagate=propagate)
    finally:
        solo.close()


def _too_many(ran: Sequence[Run]) -> str:
    counted = Counter(run.task for run in ran)
    names = ", ".join(f"{name}: {count}" for name, count in counted.most_common())
    return (
        f"{len(ran)} tasks ran and more wait ({names}): does one send itself for ever? If it does "
        "so from time to time, run_for ends; if so many are right, raise the limit"
    )


def _raise_error(run: Run, *, propagate: bool) -> None:
    """Raise what a task raised, if it is wanted, or if it was not for the task (an interrupt)."""
    error = run.error
    if error is None:
        return
    unknown = isinstance(error, NotRegistered)
    if not isinstance(error, Exception) or (propagate and (unknown or run.state == states.FAILURE)):
        error.add_note(f"{run.state} of {run} [{run.id}]")
        raise error


def _movable(app: Umbel) -> FakeClock:
    clock = clock_of(app.conf.current().values)
    if not isinstance(clock, FakeClock):
        raise ImproperlyConfigured(
            "only a FakeClock can be moved: take the fixture umbel_app, umbel.testing.in_memory, "
            "or broker_transport_options={'clock': FakeClock()} on a memory:// server of its own"
        )
    return clock


def _move(clock: FakeClock, at: float) -> None:
    clock.advance(max(at - clock.now(), 0.0))


class _Solo:
    """A worker without threads. Belongs to the thread that made it."""

    def __init__(self, app: Umbel, queues: Sequence[str] | None) -> None:
        self._app = app
        self._transport = memory_transport(app)
        app.import_default_modules()
        worker = Worker(app, WorkerOptions(pool="solo", concurrency=1, after=(self._note,)))
        self._service = worker.service()
        self._joiner = worker.joiner(self._service)
        self._committer = app.servers().committer
        self._queues = queues
        self._served: Sequence[str] = ()
        self._consumer: Consumer | None = None
        self._left = threading.Event()
        self._desk = Desk(self._left.set, Gate(), to_loop=self._to_loop)
        #: Entry 0 is the lane's, 1 the loop's.
        self._slot = Board(1, entries=2).slots[0]
        self._lane = Lane(
            0, self._desk, self._service, slot=self._slot, limit=ThreadLimit(), pid=os.getpid()
        )
        self._loop: Loop | None = None
        #: What the task of the delivery that runs did.
        self._noted: Outcome | None = None

    def receive(self) -> Delivery | None:
        """Receive the first message that is due; None = nothing is."""
        served = self._queues or self._transport.queues()
        if self._consumer is None or served != self._served:
            if self._consumer is not None:
                self._consumer.close()
            self._served = served
            self._consumer = self._transport.consume(served, consumer_id=ids.new_id(), lease=_LEASE)
        return next(iter(self._consumer.receive(1, 0.0)), None)

    def advance(self, until: float) -> bool:
        """Move the clock to the next due time, if it is not after ``until``; tell whether."""
        clock = _movable(self._app)
        due = min(
            (
                message.not_before
                for queue, message in self._transport.waiting()
                if queue in self._served
            ),
            default=math.inf,
        )
        if due > until or due == math.inf:
            return False
        _move(clock, due)
        return True

    def run(self, delivery: Delivery) -> Run:
        """Run a delivery, or end it otherwise, and commit what follows."""
        self._noted = None
        effects = self._service.refuse(delivery, self._service.now())
        if effects is not None:
            return self._run(delivery, self._commit([effects]))
        held = self._acknowledge(delivery)
        copy_context().run(self._lane.step, Item(delivery, "", held))
        return self._run(delivery, self._commit(self._until_end()))

    def close(self) -> None:
        """Give back what is held, and end the loop's thread."""
        if self._consumer is not None:
            self._consumer.close()
        if self._loop is not None:
            self._loop.stop()

    def _acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge what wants it before it runs; tell whether it is still held."""
        early = self._service.runs_at_most_once(delivery)
        if early:
            self._committer.commit([Effects(delivery)])
        return not early

    def _until_end(self) -> list[Effects]:
        """Return what the task reported and, last, what follows from its end."""
        found: list[Effects] = []
        while True:
            self._left.wait()
            self._left.clear()
            while self._desk.outbox:
                done = self._desk.outbox.popleft()
                if done.effects is not None:
                    found.append(done.effects)
            if found and found[-1].ending is not Ending.KEEP:
                return found

    def _commit(self, batch: Sequence[Effects]) -> Effects:
        """Commit; return what ended the delivery, which may be something else instead."""
        report = self._committer.commit(batch)
        if report.joined and self._joiner is not None:
            self._joiner.release(report.joined)
        refused = report.refused
        return self._commit([self._service.instead(refused[0])]) if refused else batch[-1]

    def _to_loop(self, items: Sequence[Item]) -> None:
        if self._loop is None:
            self._loop = Loop(
                self._desk, self._service, slot=self._slot, first_entry=1, pid=os.getpid()
            )
        self._loop.submit(items)

    def _note(self, _request: Request, outcome: Outcome) -> None:
        self._noted = outcome

    def _run(self, delivery: Delivery, effects: Effects) -> Run:
        call = call_of(delivery.message, delivery.queue)
        outcome = self._noted
        if outcome is None or _is_overruled(outcome, effects):
            outcome = self._judged(call, effects)
        return Run(
            **{name: getattr(call, name) for name in Call.__slots__},
            state=outcome.state,
            value=outcome.value,
            error=outcome.error,
            dead=effects.reason if effects.ending is Ending.DEAD else "",
        )

    def _judged(self, call: Call, effects: Effects) -> Outcome:
        """Return what became of a call that did not run, or whose end could not be kept."""
        if effects.results:
            record = effects.results[0]
            codec = get(self._app.conf.result_serializer)
            return Outcome(record.state, error=result_of(decode_meta(record.meta, codec.loads)))
        if effects.publish:
            return Outcome(states.RETRY, error=NotRegistered(call.task))
        if effects.ending is Ending.DEAD:
            return Outcome(states.FAILURE)
        revoked = effects.delivery is not None and effects.delivery.revoked
        return Outcome(states.REVOKED, error=TaskRevokedError("revoked" if revoked else "expired"))


def _is_overruled(outcome: Outcome, effects: Effects) -> bool:
    """Tell whether a task's end became a failure: its result, or what follows, cannot travel."""
    failed = any(record.state == states.FAILURE for record in effects.results)
    return failed and outcome.state in (states.SUCCESS, states.RETRY)
