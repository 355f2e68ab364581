"""Publishing and receiving in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from umbel.exceptions import (
    ImproperlyConfigured,
    TimeoutError,
    TopologyConflict,
    TransportError,
    Unroutable,
)
from umbel.message import Delivery, Message
from umbel.servers.memory.space import Entry, Line, Session, Space
from umbel.servers.seams import Capabilities, DeadConsumer, Depth, Place
from umbel.topology import Binding, Exchange, Queue, Topology

CAPABILITIES = Capabilities(
    commit="atomic",
    delay_precision=0.001,
    exchange_types=frozenset({"direct", "topic", "fanout"}),
    priorities=10,
    dead_letters=True,
    durable_ledger=False,
    stored="in the memory of this process; nothing survives its end",
    embedded=True,
    finds="exact",
)


class MemoryTransport:
    """``Transport`` over a space."""

    def __init__(self, space: Space) -> None:
        self.capabilities = CAPABILITIES
        self._space = space

    def declare(self, topology: Topology) -> None:
        with self._space.lock:
            for exchange in topology.exchanges:
                _declare_exchange(self._space, exchange)
            for queue in topology.queues:
                _declare_queue(self._space, queue)
            for binding in topology.bindings:
                _bind(self._space, binding)

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        # The least that a publish can be: its Python-level calls are counted by a test.
        space = self._space
        if space.clock.monotonic() > deadline:
            raise TimeoutError("the deadline was over before anything was published")
        refused: list[tuple[str, str]] = []
        with space.lock:
            for message in messages:
                queues = space.routes(message)
                if queues:
                    space.store(message, queues)
                else:
                    refused.append((message.id, unroutable(message)))
        if refused:
            raise Unroutable("unroutable", refused)

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> MemoryConsumer:
        session = Session(consumer_id, tuple(queues), lease, 0.0)
        with self._space.lock:
            self._space.begin(session)
        return MemoryConsumer(self._space, session)

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        space = self._space
        lost: list[str] = []
        with space.lock:
            deadline = space.clock.monotonic() + lease
            for consumer_id in consumer_ids:
                session = space.sessions.get(consumer_id)
                if session is None:
                    lost.append(consumer_id)
                else:
                    session.deadline = deadline
        return lost

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        space = self._space
        with space.lock:
            charged = [
                _charge(space.end(space.sessions[each.consumer_id]), each)
                for each in dead
                if each.consumer_id in space.sessions
            ]
            now = space.clock.monotonic()
            lapsed = [each for each in space.sessions.values() if each.deadline <= now]
            lost = [_count_losses(space.end(each)) for each in lapsed]
            entries = [entry for each in (*charged, *lost) for entry in each]
            for entry in entries:
                space.give_back(entry)
        return len(entries)

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        with self._space.lock:
            return {
                name: _depth(self._space, self._space.lines[name])
                for name in queues
                if name in self._space.lines
            }

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        space = self._space
        with space.lock:
            held = [
                Place("held", entry.queue, entry.message, consumer_id=session.consumer_id)
                for session in space.sessions.values()
                for entry in session.holds.values()
                if entry.message.id == task_id
            ]
            lines = [space.lines[name] for name in queues if name in space.lines]
            return [*held, *(place for line in lines for place in _places(space, line, task_id))]

    def queues(self) -> Sequence[str]:
        with self._space.lock:
            return list(self._space.lines)

    def bindings(self) -> Sequence[Binding]:
        with self._space.lock:
            return [each for bound in self._space.bindings.values() for each in bound.values()]

    def purge(self, queues: Sequence[str]) -> int:
        count = 0
        with self._space.lock:
            for line in (self._space.lines[name] for name in queues if name in self._space.lines):
                count += len(line.ready) + len(line.delayed)
                line.ready.clear()
                line.delayed.clear()
        return count

    def waiting(self) -> list[tuple[str, Message]]:
        """Return all that waits, each with its queue: what is ready, then what is delayed."""
        space = self._space
        with space.lock:
            for line in space.lines.values():
                line.ripen(space.clock.now())
            ready = [entry for line in space.lines.values() for entry in line.ready]
            delayed = [entry for line in space.lines.values() for entry in line.delayed]
        return [(entry.queue, entry.message) for _, _, entry in (*sorted(ready), *sorted(delayed))]

    def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryConsumer:
    """``Consumer`` over a space."""

    def __init__(self, space: Space, session: Session) -> None:
        self._space = space
        self._session = session
        self._woken = False
        self._closed = False

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        space, session = self._space, self._session
        deadline = space.clock.monotonic() + timeout
        while True:
            with space.lock:
                self._go_on()
                deliveries = space.receive(session, limit)
                left = deadline - space.clock.monotonic()
                if deliveries or self._woken or left <= 0:
                    self._woken = False
                    space.waiting.discard(session)
                    return deliveries
                space.waiting.add(session)
                due_at = space.next_due(session)
            pause = left if due_at is None else min(left, due_at - space.clock.now())
            if not session.bell.wait(pause) and pause == left:
                deadline = space.clock.monotonic()  # over, even for a clock that stands still

    def _go_on(self) -> None:
        """Begin again after having been fenced; what was held then stays lost."""
        if self._closed:
            raise TransportError(f"the session {self._session.consumer_id} is closed")
        if self._session.consumer_id not in self._space.sessions:
            self._space.begin(self._session)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        with self._space.lock:
            for entry in map(self._space.release, deliveries):
                if entry is not None:
                    self._space.give_back(entry)

    def wake(self) -> None:
        self._woken = True
        self._session.bell.ring()

    def close(self) -> None:
        with self._space.lock:
            self._closed = True
            for entry in self._space.end(self._session):
                self._space.give_back(entry)


def unroutable(message: Message) -> str:
    """Say why a message leads nowhere."""
    if message.exchange:
        return f"no queue is bound to exchange {message.exchange!r} for key {message.routing_key!r}"
    return f"there is no queue {message.routing_key!r}"


def _declare_exchange(space: Space, exchange: Exchange) -> None:
    if not exchange.name:
        return
    if exchange.type not in CAPABILITIES.exchange_types:
        raise ImproperlyConfigured(
            f"exchange {exchange.name!r} is of type {exchange.type!r}; memory:// has"
            f" {', '.join(sorted(CAPABILITIES.exchange_types))}"
        )
    existing = space.exchanges.setdefault(exchange.name, exchange)
    if existing != exchange:
        raise TopologyConflict(f"exchange {exchange.name!r} exists as {existing}, not {exchange}")


def _declare_queue(space: Space, queue: Queue) -> None:
    bare = replace(queue, exchange=Exchange(), routing_key="", binding_arguments={})
    if queue.name not in space.lines:
        space.lines[queue.name] = Line(bare)
    existing = space.lines[queue.name].declared
    if existing != bare:
        raise TopologyConflict(f"queue {queue.name!r} exists as {existing}, not {bare}")
    if queue.exchange.name:
        _declare_exchange(space, queue.exchange)
        _bind(
            space,
            Binding(queue.exchange.name, queue.name, queue.routing_key, queue.binding_arguments),
        )


def _bind(space: Space, binding: Binding) -> None:
    if binding.exchange not in space.exchanges or binding.queue not in space.lines:
        raise TopologyConflict(
            f"cannot bind {binding.queue!r} to {binding.exchange!r}: declare both first"
        )
    space.bindings[binding.exchange][binding.routing_key, binding.queue] = binding


def _charge(held: list[Entry], dead: DeadConsumer) -> list[Entry]:
    """Count the crash of a consumer against what it was running, or keep the verdict."""
    begun = [entry for entry in held if entry.message.id in dead.running]
    for entry in begun:
        if dead.verdict:
            entry.verdict = dead.verdict
        elif len(begun) == 1:
            entry.crashes += 1
        else:
            entry.suspect = True
    return held


def _count_losses(held: list[Entry]) -> list[Entry]:
    for entry in held:
        entry.losses += 1
    return held


def _depth(space: Space, line: Line) -> Depth:
    line.ripen(space.clock.now())
    sent = [entry.message.sent_at for _, _, entry in line.ready if entry.message.sent_at]
    held = sum(
        entry.queue == line.declared.name
        for session in space.sessions.values()
        for entry in session.holds.values()
    )
    consumers = sum(line.declared.name in session.queues for session in space.sessions.values())
    return Depth(len(line.ready), len(line.delayed), held, min(sent, default=None), consumers)


def _places(space: Space, line: Line, task_id: str) -> Iterator[Place]:
    line.ripen(space.clock.now())
    name = line.declared.name
    for ahead, (_, _, entry) in enumerate(sorted(line.ready)):
        if entry.message.id == task_id:
            yield Place("ready", name, entry.message, ahead=ahead)
    for due_at, _, entry in line.delayed:
        if entry.message.id == task_id:
            yield Place("delayed", name, entry.message, due_at=due_at)
