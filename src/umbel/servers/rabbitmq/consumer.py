"""Receiving: the server pushes up to a limit of unacknowledged messages, the prefetch.

A consumer has a connection of its own (see ``link``). The hold is the connection: as long as it
lives the messages are ours, and when it breaks, for whatever reason, the server gives them to
others at once. So there is no lease to renew and nothing to recover; a process that hangs without
dying is noticed by the server through missing heartbeats, and what it commits afterwards is refused
here, because its connection is gone.

Prefetch. That of a live consumer cannot be changed. So a session begins with exactly what its first
``receive`` asked for, and when more is wanted it adds a second consumer on the same queues for the
difference, at least doubling. ``give_back`` ends all of them before it returns messages, because
the server would push the same ones here again at once; the next ``receive`` begins anew, so a
window that shrank is followed too.

A consumer that does not receive for a second (its worker is blocked by a long task) is no longer
pushed to, and what was pushed and not received goes back, so that idle workers get it.

Owners. An ``Intake`` is what one connection holds; it belongs to whoever drives the link. That is
the consumer's thread, or for a moment the keeper, which answers heartbeats while that thread is
busy. ``_ready`` is filled in callbacks and emptied by the consumer's thread, by atomic operations.

What is held so long that the server would take it back is parked (``parking``).

Early. A message that is due within a second has left the server's delay (``delays``); it is held
here, like all others unacknowledged, until its time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost, TimeoutError, TransportError
from umbel.message import Delivery
from umbel.servers.rabbitmq import properties
from umbel.servers.rabbitmq.channels import Hub
from umbel.servers.rabbitmq.connection import Connection, Raw, Refused
from umbel.servers.rabbitmq.control import Control
from umbel.servers.rabbitmq.link import Link, Turn
from umbel.servers.rabbitmq.parking import Hold, Parking
from umbel.servers.rabbitmq.publishing import Publishing

#: Seconds; the server gives up a connection that was silent for twice as long. Long, because a task
#: may hold the interpreter lock for a minute, and nobody else can answer for its process.
HEARTBEAT = 60
#: Seconds that a message may be held here before it is due.
EARLY = 1.0
#: Seconds in which the server must answer orders of a consumer.
_TIMEOUT = 10.0
_PREFETCH_MOST = 65_535
#: Seconds between two looks of the keeper, and for which messages may wait here for a ``receive``.
_TICK = _HOARDED = 1.0

_monotonic = SYSTEM_CLOCK.monotonic


class Intake:
    """What one connection of a consumer holds. See the essay above for its owner."""

    def __init__(self, connection: Connection, consumer: RabbitConsumer, session: Session) -> None:
        self.connection = connection
        self.link = consumer.link
        self.parking = consumer.parking
        self._hub = session.hub
        self._queues = session.queues
        self._channel: Any = None
        self._tags: list[str] = []
        self._prefetch = 0
        self._serial = count()
        #: What is held, in the order of arrival.
        self.held: dict[int, Delivery] = {}
        #: Numbers that had arrived at points in monotonic time.
        self._ages: deque[tuple[float, int]] = deque()
        #: The last number that has been here for long.
        self._old = 0
        self._ready: deque[Delivery] = deque()
        self._early: list[tuple[float, int, Delivery]] = []

    @property
    def open(self) -> bool:
        return self.connection.trouble is None

    def want(self, limit: int, deadline: float) -> None:
        """Let the server push at least so many more than were received."""
        if limit <= 0:
            return
        wanted = min(len(self.held) - len(self._ready) + limit, _PREFETCH_MOST)
        if wanted > self._prefetch:
            self._begin(max(wanted - self._prefetch, self._prefetch), deadline)

    def next_due(self) -> float | None:
        """Wall time at which the next early message is due."""
        return self._early[0][0] if self._early else None

    def ready(self) -> bool:
        """Tell whether a message can be taken, after looking whose time has come."""
        now = self._hub.clock.now()
        while self._early and self._early[0][0] <= now:
            self._ready.append(heapq.heappop(self._early)[2])
        return bool(self._ready)

    def take(self, limit: int) -> list[Delivery]:
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def end(self, numbers: Iterable[int]) -> None:
        """Acknowledge these that we hold. For the consumer's thread."""
        turn = Turn[Intake](
            lambda current, _: self._acknowledge(numbers) if current is self else None,
            connects=False,
        )
        self.link.run(turn, _monotonic() + _TIMEOUT)

    def park(self) -> None:
        """Park what has been held for long. For the keeper."""
        with self.parking.lock:
            self._note_ages()
            for delivery in [each for number, each in self.held.items() if number <= self._old]:
                if self.open:
                    self.parking.park(delivery)
                    self.end([delivery.tag.number])

    def _note_ages(self) -> None:
        now = _monotonic()
        self._ages.append((now, next(reversed(self.held), 0)))
        while self._ages[0][0] <= now - self.parking.after:
            self._old = max(self._ages.popleft()[1], self._old)

    def _acknowledge(self, numbers: Iterable[int]) -> None:
        # What begins the row of all held goes out in one frame.
        ending = set(numbers)
        first: int | None = None
        for number in self.held:
            if number not in ending:
                break
            first = number
        with self.connection.translating():
            if first is not None:
                self._channel.basic_ack(first, multiple=True)
            for number in ending:
                del self.held[number]
                if first is None or number > first:
                    self._channel.basic_ack(number)

    def give_back(self, numbers: Iterable[int], deadline: float) -> None:
        """Return these, and whatever was pushed and not received; be pushed no more."""
        tags, self._tags, self._prefetch = self._tags, [], 0
        for tag in tags:
            self.connection.call(self._channel.basic_cancel, deadline, consumer_tag=tag)
        waiting = [*self._ready, *(each for _, _, each in self._early)]
        self._ready.clear()
        self._early.clear()
        with self.connection.translating():
            for number in sorted({*numbers, *(each.tag.number for each in waiting)}):
                if number in self.held:
                    del self.held[number]
                    self._channel.basic_nack(number, requeue=True)

    def _begin(self, prefetch: int, deadline: float) -> None:
        connection = self.connection
        if self._channel is None:
            self._declare_exclusive(deadline)
            self._channel = connection.channel(deadline, vital=True)
            # The server tells when it ends a consumer because its queue was deleted.
            self._channel.add_on_cancel_callback(self._on_cancelled)
        try:
            connection.call(self._channel.basic_qos, deadline, prefetch_count=prefetch)
            for queue in self._queues:
                self._tags.append(f"umbel.{next(self._serial)}")
                connection.call(
                    self._channel.basic_consume,
                    deadline,
                    queue=queue,
                    on_message_callback=partial(self._on_message, queue),
                    consumer_tag=self._tags[-1],
                )
        except Refused as refused:
            raise TransportError(f"cannot receive from {self._queues}: {refused.text}") from refused
        self._prefetch += prefetch

    def _declare_exclusive(self, deadline: float) -> None:
        control = Control(self.connection)
        for queue in self._queues:
            if queue in self._hub.exclusive:
                control.declare(self._hub.exclusive[queue], deadline)

    def _on_message(self, queue: str, _channel: Any, method: Any, raw: Raw, body: bytes) -> None:
        message, problem, again = properties.arrive(
            raw.data, body, exchange=method.exchange, routing_key=method.routing_key
        )
        number = method.delivery_tag
        delivery = self.held[number] = Delivery(
            message,
            queue,
            Hold(self, number),
            redelivered=method.redelivered or again,
            problem=problem,
        )
        if 0.0 < message.not_before - self._hub.clock.now() <= EARLY:
            heapq.heappush(self._early, (message.not_before, number, delivery))
        else:
            self._ready.append(delivery)

    def _on_cancelled(self, _frame: Any) -> None:
        self.connection.trouble = ConnectionLost(f"a queue of {self._queues} was deleted")


@dataclass(frozen=True, slots=True)
class Session:
    """What a consumer is told when it is made."""

    hub: Hub
    publishing: Publishing
    queues: tuple[str, ...]
    consumer_id: str
    heartbeat: int = HEARTBEAT


class RabbitConsumer:
    """A ``Consumer``. One thread owns it; ``wake`` and ``fence`` are for any."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._woken = False
        self._closed = False
        self._receiving = False
        self._left_at = _monotonic()
        self._intake: Intake | None = None
        self.parking = Parking(session.hub, session.publishing)
        self.link = Link(self._connect)
        self.link.keep(_TICK, self._tick, f"umbel-keeper-{session.consumer_id}")

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """See ``Consumer``. With ``limit`` 0 it waits for ``wake`` only."""
        self._receiving = True
        try:
            self._wait(limit, _monotonic() + timeout)
            return self._gather(limit)
        finally:
            self._receiving = False
            self._left_at = _monotonic()

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Consumer``. Until the next ``receive`` the server pushes nothing."""
        with self.parking.lock:
            held = self._intake.held if self._intake is not None else {}
            numbers = [
                each.tag.number
                for each in deliveries
                if each.tag.intake is self._intake and each.tag.number in held
            ]
            turn = Turn[Intake](lambda intake, by: intake.give_back(numbers, by), connects=False)
            self._run(turn, _monotonic() + _TIMEOUT)
            self.parking.give_back(each.tag for each in deliveries)

    def wake(self) -> None:
        self._woken = True
        self.link.wake()

    def fence(self) -> int:
        """End the hold at once, from any thread; return how many messages went back."""
        intake = self._intake
        if intake is None:
            return 0
        with self.parking.lock:
            held = len(intake.held) if intake.open else 0
            self.link.close()
            return held + self.parking.give_back()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self.parking.lock:
            self.link.end()
            with suppress(TransportError):  # it goes back by itself
                self.parking.give_back()

    def _wait(self, limit: int, deadline: float) -> None:
        while True:
            due = self._next_due()
            self._run(self._turn(limit, due), min(deadline, self._due_by(due)))
            if self._may_return(limit) or deadline <= _monotonic():
                break
        self._woken = False

    def _run(self, turn: Turn[Intake], deadline: float) -> None:
        """Take a turn. A server that leaves orders unanswered is as good as gone."""
        try:
            self.link.run(turn, deadline)
        except TimeoutError as error:
            raise ConnectionLost(str(error)) from error

    def _turn(self, limit: int, due: float | None) -> Turn[Intake]:
        return Turn(
            lambda intake, by: intake.want(limit, by),
            # An early message that came meanwhile may be due before this wait ends.
            lambda: self._may_return(limit) or self._next_due() != due,
            grace=_TIMEOUT,
        )

    def _may_return(self, limit: int) -> bool:
        ready = limit > 0 and self._intake is not None and self._intake.ready()
        return self._woken or ready

    def _next_due(self) -> float | None:
        return self._intake.next_due() if self._intake is not None else None

    def _due_by(self, due: float | None) -> float:
        """Return a wall time of the future in monotonic time."""
        if due is None:
            return float("inf")
        return _monotonic() + max(due - self._session.hub.clock.now(), 0.0)

    def _gather(self, limit: int) -> list[Delivery]:
        """Take what came with the first: the rest of a burst is in the socket already."""
        intake = self._intake
        taken = intake.take(limit) if intake is not None else []
        while intake is not None and 0 < len(taken) < limit:
            self.link.serve()
            more = intake.take(limit - len(taken)) if intake.ready() else []
            if not more:
                break
            taken += more
        return taken

    def _tick(self) -> None:
        """Answer the server's heartbeats, and hoard nothing while nobody receives."""
        if not self._receiving and self._left_at + _HOARDED <= _monotonic():
            self.link.run(Turn(self._let_go, connects=False), _monotonic() + _TIMEOUT)
        self.link.serve()
        if self._intake is not None and self._intake.open:
            self._intake.park()
        self.parking.renew()

    def _let_go(self, intake: Intake, deadline: float) -> None:
        # Looked at here, with the baton: whoever receives cannot be taking from the intake now.
        if not self._receiving and intake.open:
            intake.give_back((), deadline)

    def _connect(self, deadline: float) -> Intake:
        session = self._session
        if self._intake is not None:
            self.parking.learn(self._intake.connection.trouble)
        connection = Connection(
            session.hub.address,
            name=f"umbel {session.consumer_id}",
            heartbeat=session.heartbeat,
            deadline=deadline,
        )
        self._intake = Intake(connection, self, session)
        return self._intake
