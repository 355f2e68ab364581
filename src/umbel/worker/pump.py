"""The pump: the one thread of a worker process that talks to the broker.

It owns the Consumer and the Committer. Its turn is always the same: commit what is done, decide how
much to hold, receive that much or wait for a ring. So a batch of any size costs one receive and one
commit, and while the lanes work the next batch is fetched.

Guarantees. A delivery that it received is, at every moment, in exactly one of: the inbox, a lane or
the loop, the outbox, ``_unfed``, ``_pending`` (a commit that failed and will be repeated), given
back. Nothing is forgotten on an error of the server: the same commit is repeated until it is
answered, and the fence on the server makes a repeat harmless. What has not begun is given back when
every lane is blocked by a long task, and when the worker stops.

While every lane is blocked, coroutine tasks still begin, and others while the loop is full. Of
which kind messages are is seen only after they were received, and those that find no place must not
wait here. So a few are received; what finds no place goes back at once, first in its queue, and a
pause follows, twice as long each time. What has a queue of its own is not held up at all. Where the
server counts what is given back (see ``Capabilities.counts_returns``), nothing is received then.

Beside CPU-bound Python every return from the server waits for the interpreter lock; so the number
of calls per batch is small and fixed, and the child shortens the switch interval.

Rejected: letting the lane commit itself (no read-ahead, and a long task would hold back the results
before it); one queue for both directions (give-back could not take out what has not begun).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import Empty
from typing import TYPE_CHECKING

from umbel import backoff, telemetry
from umbel.calling import tell_published
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TransportError
from umbel.message import Delivery, Effects, Ending, Message
from umbel.servers.seams import Capabilities, CommitReport, Committer, Consumer
from umbel.signals import after_task_publish
from umbel.worker.joiner import Joiner
from umbel.worker.lane import FLUSH, Desk, Done, Gate, Item, Lane
from umbel.worker.pulse import Pulse
from umbel.worker.rates import Rates
from umbel.worker.recycling import Allowance
from umbel.worker.service import Service
from umbel.worker.window import MOST, Window

if TYPE_CHECKING:
    from umbel.worker.loop import Loop

logger = logging.getLogger("umbel.worker")

#: Seconds after which a lane counts as blocked by a long task, and what waits behind it goes back.
BLOCKED_AFTER = 0.05
#: Messages received at once while every lane is blocked, and the longest pause in seconds after
#: finding some that need a lane.
BESIDE, BESIDE_PAUSE = 128, 5.0
#: Longest wait in seconds; after it the pump looks whether its parent still lives.
LONGEST_WAIT = 2.0
#: Seconds between attempts to reach a server that is gone: first and longest.
RECONNECT, RECONNECT_MOST = 0.05, 5.0

_monotonic = SYSTEM_CLOCK.monotonic


def _shown(delivery: Delivery) -> str:
    message = delivery.message
    return _printable(f"{message.headers.get('task')!s:.127}[{message.id:.255}]")


def _printable(text: str) -> str:
    """Return what any log can take, of a text that may have lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _tell_of_death(effects: Effects) -> None:
    if effects.delivery is not None:
        logger.error(
            "%s goes to the dead letters: %.1000s",
            _shown(effects.delivery),
            _printable(effects.reason),
        )
    elif effects.acknowledged is not None:
        logger.error(
            "%s has failed: %.1000s", _shown(effects.acknowledged), _printable(effects.reason)
        )


def _tell_published(batch: Sequence[Effects], report: CommitReport) -> None:
    """Tell of follow-ups that are stored; not of messages that were only put elsewhere."""
    undone = {id(each) for each in report.stale} | {id(each.effects) for each in report.refused}
    for effects in batch:
        cause = effects.delivery or effects.acknowledged
        if cause is None or id(cause) in undone or id(effects) in undone:
            continue
        tell_published([each for each in effects.publish if _is_new(each, cause.message)])


def _is_new(message: Message, cause: Message) -> bool:
    retries = (message.headers.get("retries"), cause.headers.get("retries"))
    return message.id != cause.id or retries[0] != retries[1]


def _needs_a_look(delivery: Delivery, now: float) -> bool:
    message = delivery.message
    return bool(
        delivery.crashes
        or message.not_before > now
        or message.expires_at is not None
        or delivery.problem is not None
        or delivery.suspect
        or delivery.revoked
        or delivery.losses
        or delivery.verdict
    )


class Bell:
    """Something to wait for with a deadline; ringing is one C call and may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Let one wait return, the present or the next."""
        try:
            self._lock.release()
        except RuntimeError:  # it rings already
            return

    def wait(self, timeout: float) -> bool:
        """Wait for a ring; tell whether it rang."""
        return self._lock.acquire(timeout=timeout)


@dataclass(slots=True)
class Parts:
    """What the pump works with; made by the engine."""

    consumer: Consumer
    committer: Committer
    service: Service
    lanes: Sequence[Lane]
    window: Window
    #: Makes the asyncio loop when the first coroutine task comes.
    make_loop: Callable[[], Loop]
    capabilities: Capabilities
    #: Tells whether the process that started this one still lives.
    parent_lives: Callable[[], bool]
    #: What it says of itself on the board.
    pulse: Pulse
    #: How much it may do before it is worn.
    allowance: Allowance
    #: None = no task has a rate limit.
    rates: Rates | None
    #: Sends the bodies of chords; None = there is no place for joins.
    joiner: Joiner | None = None


class Pump:
    """Owned by the thread in ``run``; ``ring`` and ``stop`` may be called from any."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        weigh = self._weigh if parts.allowance.limits_memory else None
        self.desk = Desk(self.ring, Gate(), to_loop=self._submit, weigh=weigh)
        self._runs_beside = parts.service.runs_coroutines and not parts.capabilities.counts_returns
        self._quiet: AbstractContextManager[None] = (
            self.desk.gate if parts.capabilities.embedded else nullcontext()
        )
        self._bell = Bell()
        self._receiving = False
        #: The last receive brought something, so the next will not have to wait.
        self._flowing = False
        self._pending: list[Effects] = []
        #: Joins that our commits completed, and that are to be released.
        self._joined: list[str] = []
        #: Received, and not handed over because acknowledging them early failed.
        self._unfed: list[Delivery] = []
        #: Deliveries whose process died while several tasks ran, and whether one of them runs now.
        self._suspects: deque[Delivery] = deque()
        self._alone = False
        #: Something was committed in this turn, and more is held: it may have ended since, unrung.
        self._settling = False
        #: When to receive again beside blocked lanes, and after which pause.
        self._beside_at = self._beside_pause = 0.0
        self._loop: Loop | None = None
        self._async_share = 0.0
        #: It wants a successor, and receives no more.
        self._worn = False
        #: Set whenever what had not begun was given back.
        self._retracted = threading.Event()
        #: How many of what was last received were over their rate.
        self._sent_away = 0
        self._stop_by: float | None = None
        self._outage_since: float | None = None
        self._failures = 0

    def ring(self) -> None:
        """Make the pump take its next turn now. Any thread, signal handlers too."""
        self._bell.ring()
        if self._receiving:
            self._parts.consumer.wake()

    def stop(self, deadline: float) -> None:
        """Stop receiving; end when nothing runs any more, or at the deadline. Any thread."""
        self._stop_by = deadline if self._stop_by is None else min(deadline, self._stop_by)
        self.ring()

    def run(self) -> None:
        """Turn until stopped. What is still held then is given back."""
        try:
            while not self._finished():
                self._turn()
        finally:
            self._end()

    # -- one turn ---------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._parts.pulse.turn()
        try:
            with self._quiet:
                self._commit()
                took = self._flowing and self._stop_by is None and self._take()
            self._feed()
            if self._stop_by is not None:
                self._retract()
                if not self._finished():
                    self._bell.wait(min(max(self._stop_by - _monotonic(), 0.0), LONGEST_WAIT))
            elif not took:
                self._receive_or_wait()
            self._answered()
        except TransportError as error:
            self._outage(error)

    def _commit(self) -> None:
        self._gather()
        if self._joined:
            self._release()
        batch = self._pending
        self._settling = bool(batch) and self._parts.window.held > 0
        if not batch:
            return
        telemetry.emit("commit.begun", count=len(batch))
        report = self._parts.committer.commit(batch)
        self._pending = []
        for refusal in report.refused:
            self._leave(self._parts.service.instead(refusal))
        if after_task_publish.receivers:
            _tell_published(batch, report)
        ended = sum(1 for effects in batch if effects.ending is not Ending.KEEP)
        self._parts.pulse.count(ended - len(report.refused))
        telemetry.emit("delivery.committed", count=len(batch), stale=len(report.stale))
        if report.joined:
            self._joined += report.joined
            self._release()

    def _gather(self) -> None:
        """Take what is done from the outbox."""
        batch, outbox, window = self._pending, self.desk.outbox, self._parts.window
        while outbox:
            done = outbox.popleft()
            if done.effects is not None:
                batch.append(done.effects)
                if done.effects.ending is Ending.DEAD:
                    _tell_of_death(done.effects)
            if done.name is not None:
                window.learn(done.name, done.runtime)

    def _release(self) -> None:
        if self._parts.joiner is not None:
            self._parts.joiner.release(self._joined)
        self._joined = []

    def _take(self) -> bool:
        """Receive what is there without waiting; tell whether something was."""
        room = self._room_now()
        if room:
            self._received(self._parts.consumer.receive(room, 0.0))
        return bool(self._unfed)

    def _receive_or_wait(self) -> None:
        blocked = self._blocked()
        if blocked and (self._suspects or not self.desk.inbox.empty()):
            self._retract()
        elif not blocked and not self._full():
            self._beside_at = self._beside_pause = 0.0
        room = self._room_now()
        if not self._busy():
            self._parts.pulse.idle()
        patience = self._patience(blocked=blocked)
        if not room:
            self._bell.wait(patience)
            return
        self._receiving = True
        try:
            # A ring before this line finds _receiving unset and is seen here; a later one wakes.
            rung = self._bell.wait(0.0)
            self._received(self._parts.consumer.receive(room, 0.0 if rung else patience))
        finally:
            self._receiving = False
        self._feed()

    def _received(self, deliveries: list[Delivery]) -> None:
        self._flowing = bool(deliveries)
        if not deliveries:
            return
        telemetry.emit("delivery.received", count=len(deliveries))
        if self._parts.rates is not None:
            deliveries, away = self._parts.rates.sift(deliveries)
            for effects in away:
                self._leave(effects)
            self._sent_away = len(away)
        self._unfed += deliveries
        if self._unfed:
            self._parts.pulse.busy()

    def _patience(self, *, blocked: bool) -> float:
        """Return after how many seconds to look again, though nobody rang."""
        if self._settling:
            return FLUSH
        held = self._parts.window.held
        if (
            not blocked
            and held >= len(self._parts.lanes)
            and (self._runs_beside or not self.desk.inbox.empty())
        ):
            return BLOCKED_AFTER
        if self._runs_beside and (blocked or self._full()):
            return min(max(self._beside_at - _monotonic(), 0.0) or LONGEST_WAIT, LONGEST_WAIT)
        return LONGEST_WAIT

    # -- how much to hold -------------------------------------------------------------------------

    def _room_now(self) -> int:
        allowance = self._parts.allowance
        if (allowance.limited and self._worn_out(allowance)) or self._isolates():
            return 0
        # What is over its rate passes through in growing batches; it takes no room.
        passing = min(2 * self._sent_away, MOST)
        return min(max(self._room(), passing), allowance.left)

    def _worn_out(self, allowance: Allowance) -> bool:
        allowance.look(_monotonic())
        if allowance.why and not self._worn:
            self._worn = True
            telemetry.emit("child.worn", why=allowance.why)
            logger.info("This process will be replaced: %s", allowance.why)
            self._parts.pulse.worn()
        if allowance.far_over:
            self._retract()
        return self._worn

    def _weigh(self) -> None:
        """Let nothing more begin in a process far over its memory. Called by lanes."""
        if self._parts.allowance.measure():
            self._retracted.clear()
            self.ring()
            self._retracted.wait(LONGEST_WAIT)

    def _room(self) -> int:
        """Return how many to receive, so that lanes and loop can take what probably comes."""
        if self._blocked():
            return min(BESIDE, self._free()) if self._may_look_beside() else 0
        room, share = self._lane_room(), self._async_share
        if self._full():
            return BESIDE if room and self._may_look_beside() else 0
        if self._loop is None or not share:
            return room
        by_lanes = room / (1.0 - share) if share < 1.0 else MOST
        return max(int(min(self._free() / share, by_lanes, MOST)), 1 if room else 0)

    def _lane_room(self) -> int:
        idle = sum(1 for lane in self._parts.lanes if not lane.busy_since)
        return self._parts.window.room(idle)

    def _free(self) -> int:
        """Return how many coroutine tasks may begin."""
        return BESIDE if self._loop is None else self._loop.limit - self._loop.count

    def _full(self) -> bool:
        """Tell whether the loop runs as many as it may."""
        return self._loop is not None and self._loop.count >= self._loop.limit

    def _may_look_beside(self) -> bool:
        return self._runs_beside and _monotonic() >= self._beside_at

    def _blocked(self) -> bool:
        before = _monotonic() - BLOCKED_AFTER
        return all(0.0 < lane.busy_since < before for lane in self._parts.lanes)

    # -- handing over -----------------------------------------------------------------------------

    def _feed(self) -> None:
        if not self._unfed:
            return
        now = self._parts.service.now()
        self._unfed = [
            each
            for each in self._unfed
            if not (_needs_a_look(each, now) and self._set_aside(each, now))
        ]
        sync, coroutines = self._sorted()
        if self._runs_beside and self._blocked():
            self._pass_on(sync)
            sync = []
        elif self._runs_beside and self._full():
            room = self._lane_room()
            self._pass_on(coroutines + sync[room:])
            sync, coroutines = sync[:room], []
        self._unfed = [item.delivery for item in (*sync, *coroutines)]
        if self._parts.service.acknowledges_early:
            stale = self._acknowledge_early([*sync, *coroutines])
            sync = [item for item in sync if id(item) not in stale]
            coroutines = [item for item in coroutines if id(item) not in stale]
        self._unfed = []
        self._parts.allowance.use(len(sync) + len(coroutines))
        self._hand_over(sync)
        if coroutines:
            self._submit(coroutines)

    def _sorted(self) -> tuple[list[Item], list[Item]]:
        """Return what needs a lane, and the coroutine tasks."""
        tasks = self._parts.service.tasks
        sync: list[Item] = []
        coroutines: list[Item] = []
        for delivery in self._unfed:
            name = delivery.message.headers.get("task")
            if type(name) is not str:
                name = ""
            bound = tasks.get(name)
            to = coroutines if bound is not None and bound.is_async else sync
            to.append(Item(delivery, name, held=bound is None or bound.acks_late))
        if self._unfed:
            self._async_share += (len(coroutines) / len(self._unfed) - self._async_share) * 0.5
        return sync, coroutines

    def _acknowledge_early(self, items: list[Item]) -> frozenset[int]:
        """Acknowledge what wants it before it runs; return the identities of those not ours now."""
        early = [item for item in items if not item.held]
        report = self._parts.committer.commit([Effects(item.delivery) for item in early])
        stale = {id(delivery) for delivery in report.stale}
        return frozenset(id(item) for item in early if id(item.delivery) in stale)

    def _pass_on(self, items: list[Item]) -> None:
        """Let others have what would wait here."""
        back = [*(item.delivery for item in items), *self._suspects]
        if not back:
            self._beside_pause = 0.0
            return
        self._give_back(back)
        self._suspects.clear()
        self._flowing = False
        self._beside_pause = min(max(2 * self._beside_pause, BLOCKED_AFTER), BESIDE_PAUSE)
        self._beside_at = _monotonic() + self._beside_pause

    def _set_aside(self, delivery: Delivery, now: float) -> bool:
        effects = self._parts.service.refuse(delivery, now)
        if effects is not None:
            self._leave(effects)
            if effects.ending is Ending.ACK and not effects.publish:
                logger.info("Task %s does not run: revoked or expired", _shown(delivery))
        elif delivery.suspect:
            self._suspects.append(delivery)
        return effects is not None or delivery.suspect

    def _hand_over(self, items: list[Item]) -> None:
        if not items:
            return
        size = sum(len(item.delivery.message.body) for item in items) // len(items)
        self._parts.window.hold([item.name for item in items], size)
        for item in items:
            self.desk.inbox.put(item)

    def _submit(self, items: Sequence[Item]) -> None:
        if self._loop is None:
            self._loop = self._parts.make_loop()
        self._loop.submit(items)

    def _leave(self, effects: Effects) -> None:
        self.desk.outbox.append(Done(effects))
        self._bell.ring()

    def _isolates(self) -> bool:
        """Run suspects one at a time with nothing beside them; tell whether one waits or runs."""
        if not self._busy():
            self._alone = bool(self._suspects)
            if self._suspects:
                delivery = self._suspects.popleft()
                self._unfed = [dataclasses.replace(delivery, suspect=False)]
                self._feed()
        return self._alone or bool(self._suspects)

    def _busy(self) -> bool:
        loop = self._loop
        return bool(self._parts.window.held or (loop is not None and loop.count))

    def _retract(self) -> None:
        """Give back what has not begun."""
        back: list[Delivery] = []
        kept: list[Item] = []  # acknowledged already: nobody else will run it
        try:
            while (item := self.desk.inbox.get_nowait()) is not None:
                if item.held:
                    self._parts.window.let_go(item.name)
                    back.append(item.delivery)
                else:
                    kept.append(item)
        except Empty:
            pass
        for item in kept:
            self.desk.inbox.put(item)
        self._parts.allowance.use(-len(back))
        back += [*self._suspects, *self._unfed]
        self._suspects.clear()
        self._unfed = []
        if back:
            self._give_back(back)
        self._retracted.set()

    def _give_back(self, deliveries: list[Delivery]) -> None:
        self._parts.consumer.give_back(deliveries)
        telemetry.emit("delivery.given_back", count=len(deliveries))

    # -- outages and the end ----------------------------------------------------------------------

    def _outage(self, error: TransportError) -> None:
        if self._outage_since is None:
            self._outage_since = _monotonic()
            self._parts.pulse.down(self._outage_since, str(error))
            telemetry.emit("connection.lost", error=error)
        self._failures += 1
        pause = backoff.exponential(self._failures, RECONNECT, maximum=RECONNECT_MOST)
        if self._stop_by is not None:
            pause = min(pause, max(self._stop_by - _monotonic(), 0.0))
        self._bell.wait(pause)

    def _answered(self) -> None:
        if self._outage_since is not None:
            seconds = _monotonic() - self._outage_since
            telemetry.emit("connection.restored", seconds=seconds)
            self._outage_since, self._failures = None, 0
            self._parts.pulse.up()

    def _finished(self) -> bool:
        if not self._parts.parent_lives():
            logger.error("The supervisor is gone: stopping")
            self._stop_by = _monotonic()
        if self._stop_by is None:
            return False
        # In this order: whatever ends is in the outbox before it is counted as ended.
        running = self._parts.window.held or (self._loop is not None and self._loop.count)
        left = self.desk.outbox or self._pending
        return not (running or left) or _monotonic() >= self._stop_by

    def _end(self) -> None:
        self._parts.pulse.spent()
        try:
            while self._pending or self.desk.outbox:
                self._commit()
            self._retract()
            self._parts.consumer.close()
        except TransportError as error:
            logger.error("Could not give back what was held; its lease will: %s", error)  # noqa: TRY400 -- expected when the server is gone
        if self._loop is not None:
            self._loop.stop()
        for _ in self._parts.lanes:
            self.desk.inbox.put(None)
