"""What a memory server is: one space of queues, holds, results and small state under one lock.

    queue ── ready     heap by priority, then position       ┐
          └─ delayed   heap by due time                      ├ an entry is in exactly one of these
    holds ── hold number -> the session that has it          │
    dead  ── key -> DeadLetter                               ┘

Owner of everything is the space; whoever changes it has ``space.lock``. An entry gets its position
in the line when it is published and keeps it through holds, deaths and give-backs, so it comes back
to where it was: before all that was sent later. Only a requeue gives it a new one.

The fence is the hold number: each time an entry is received it gets a new one, and the old numbers
mean nothing. To end, give back or recover an entry is to take its number out of ``holds``, so two
parties can never both do it.

Waiting happens outside of the lock, at a ``Bell`` of one's own. Whoever makes something receivable
rings the bells of those that wait for that queue; while all are busy that costs a publisher
nothing. Bells instead of conditions: ringing must be possible in a signal handler, where a thread
may not take a lock that it might hold already, and a ring before the wait must not be lost.

Times: due times are wall times (they came with the message), leases are monotonic.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from umbel.clock import Clock
from umbel.message import Delivery, Message
from umbel.servers.memory.bell import Bell
from umbel.servers.memory.joins import JoinTable
from umbel.servers.memory.shelf import Shelf
from umbel.servers.seams import Charge, DeadLetter, Revocation
from umbel.topology import Binding, Exchange, Queue, route
from umbel.wire.names import tree_of


class Entry:
    """A message in the space, with what is counted against it."""

    __slots__ = (
        "crashes",
        "losses",
        "message",
        "position",
        "queue",
        "redelivered",
        "suspect",
        "verdict",
    )

    def __init__(self, message: Message, queue: str, position: int) -> None:
        self.message = message
        self.queue = queue
        self.position = position
        self.crashes = 0
        self.losses = 0
        self.suspect = False
        self.verdict = ""
        self.redelivered = False


@dataclass(slots=True)
class Line:
    """A queue: its entries as (priority negated, position, entry) and (due at, position, entry)."""

    declared: Queue
    ready: list[tuple[int, int, Entry]] = field(default_factory=list)
    delayed: list[tuple[float, int, Entry]] = field(default_factory=list)

    def ripen(self, now: float) -> None:
        """Make ready what is due."""
        while self.delayed and self.delayed[0][0] <= now:
            self.add(heapq.heappop(self.delayed)[2])

    def add(self, entry: Entry) -> None:
        level = min(max(entry.message.priority, 0), 9)
        heapq.heappush(self.ready, (-level, entry.position, entry))


@dataclass(slots=True, eq=False)
class Session:
    """What a consumer is to the space."""

    consumer_id: str
    queues: tuple[str, ...]
    lease: float
    #: Monotonic time.
    deadline: float
    holds: dict[int, Entry] = field(default_factory=dict)
    bell: Bell = field(default_factory=Bell)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who has a lease of the ledger. Never deleted, so that its token is never given again."""

    holder: str
    token: int
    #: Monotonic time.
    deadline: float


class Space:
    """All state, and the few moves that every part of the server is made of.

    Every method is called with ``lock`` held.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget everything."""
        self.lock = threading.Lock()
        self.exchanges: dict[str, Exchange] = {}
        self.bindings: defaultdict[str, dict[tuple[str, str], Binding]] = defaultdict(dict)
        self.lines: dict[str, Line] = {}
        self.sessions: dict[str, Session] = {}
        self.waiting: set[Session] = set()
        #: Hold number -> who has it.
        self.holds: dict[int, Session] = {}
        self.dead: dict[str, DeadLetter] = {}
        #: Message of another server -> wall time at which it is forgotten, what stands against it.
        self.charges: dict[str, tuple[float, Charge]] = {}
        #: Dead consumer -> wall time until which it is known to be charged.
        self.charged: dict[str, float] = {}
        self.shelf = Shelf(self.clock)
        self.joins = JoinTable(self.clock)
        #: Task id -> wall time at which that is forgotten, and what was said.
        self.revoked: dict[str, tuple[float, Revocation]] = {}
        #: Name -> wall time at which it is forgotten, and the record as JSON.
        self.nodes: dict[str, tuple[float, str]] = {}
        self.leases: dict[str, Lease] = {}
        #: By name; what they are is known to ``timetable``.
        self.timetables: dict[str, Any] = {}
        self.next_number = itertools.count(1).__next__

    # --- towards the queues

    def routes(self, message: Message) -> Sequence[str]:
        """Return the queues that a message goes to; none = unroutable."""
        if not message.exchange:
            return (message.routing_key,) if message.routing_key in self.lines else ()
        exchange = self.exchanges.get(message.exchange)
        if exchange is None:
            return ()
        return route(exchange.type, self.bindings[message.exchange], message.routing_key)

    def store(self, message: Message, queues: Iterable[str]) -> None:
        """Put a new message into these queues."""
        for queue in queues:
            self.place(Entry(message, queue, self.next_number()))

    def place(self, entry: Entry) -> None:
        """Put an entry where it belongs in its queue, and wake who waits for it."""
        line = self.lines[entry.queue]
        due_at = entry.message.not_before
        if due_at and due_at > self.clock.now():
            heapq.heappush(line.delayed, (due_at, entry.position, entry))
        else:
            line.add(entry)
        if self.waiting:
            self.ring(entry.queue)

    def ring(self, queue: str) -> None:
        for session in self.waiting:
            if queue in session.queues:
                session.bell.ring()

    # --- from the queues to a session

    def receive(self, session: Session, limit: int) -> list[Delivery]:
        """Move what is due into the session: by priority, then by age, whatever its queue."""
        now = self.clock.now()
        lines = [self.lines[name] for name in session.queues if name in self.lines]
        for line in lines:
            line.ripen(now)
        deliveries: list[Delivery] = []
        while len(deliveries) < limit:
            ready = [line.ready for line in lines if line.ready]
            if not ready:
                break
            entry = heapq.heappop(min(ready))[2]
            deliveries.append(self._hold(session, entry, now))
        return deliveries

    def _hold(self, session: Session, entry: Entry, now: float) -> Delivery:
        number = self.next_number()
        session.holds[number] = entry
        self.holds[number] = session
        return Delivery(
            message=entry.message,
            queue=entry.queue,
            tag=number,
            crashes=entry.crashes,
            losses=entry.losses,
            suspect=entry.suspect,
            redelivered=entry.redelivered,
            verdict=entry.verdict,
            revoked=self.is_revoked(entry.message.id, now)
            or self.is_revoked(tree_of(entry.message.headers), now),
        )

    def is_revoked(self, task_id: str, now: float) -> bool:
        said = self.revoked.get(task_id)
        return said is not None and said[0] > now

    def next_due(self, session: Session) -> float | None:
        """Return the wall time at which the next delayed message of the session's is due."""
        lines = (self.lines[name] for name in session.queues if name in self.lines)
        return min((line.delayed[0][0] for line in lines if line.delayed), default=None)

    # --- sessions

    def begin(self, session: Session) -> None:
        """Register a session, or register one anew that was fenced."""
        session.deadline = self.clock.monotonic() + session.lease
        session.holds.clear()
        self.sessions[session.consumer_id] = session

    def release(self, delivery: Delivery) -> Entry | None:
        """End a hold; return what was held, or None if it is no longer so."""
        session = self.holds.pop(delivery.tag, None)
        return None if session is None else session.holds.pop(delivery.tag)

    def give_back(self, entry: Entry) -> None:
        """Put an entry back to where it was in its queue."""
        entry.redelivered = True
        if entry.queue in self.lines:
            self.place(entry)

    def end(self, session: Session) -> list[Entry]:
        """Fence a session; return what it held, in the order of receiving."""
        self.sessions.pop(session.consumer_id, None)
        self.waiting.discard(session)
        held = list(session.holds.values())
        for number in session.holds:
            del self.holds[number]
        session.holds.clear()
        return held

    def bury(self, entry: Entry, reason: str) -> None:
        """Put an entry among the dead letters."""
        self.keep_letter(entry.message, entry.queue, reason, entry.crashes)

    def keep_letter(self, message: Message, queue: str, reason: str, crashes: int) -> None:
        """Add a dead letter."""
        key = f"{self.next_number():016d}"
        self.dead[key] = DeadLetter(key, message, queue, reason, self.clock.now(), crashes)
