"""A ledger for a broker that has no place for one (RabbitMQ), kept on another server.

``Accompanied`` is the same broker with that ledger in three places, and its timetables:

    transport   consumers look up what stands against a message that was delivered before, and which
                are revoked; ``recover`` charges the dead
    settling    what ends is forgotten by the ledger; dead letters are kept there
    ledger      ``requeue`` sends a letter to its queue on the broker

Owners. A consumer's wrapper belongs to the thread that owns the consumer; the rest has no state.

The gap. RabbitMQ gives back what a dead process held as soon as its socket closes, which may be
milliseconds before that process's supervisor has told who was running. So a message that comes
again and against which nothing stands is kept for ``GRACE`` seconds and looked up once more, and
what came after it waits behind it. What was merely handed back waits as long; nobody can tell the
two apart. If the word comes later than that, a message may start more often than it should.

What stays open: how often a machine was lost under a message is not counted (``Delivery.losses``),
because nobody is told of it.

Rejected: counting starts (one more write to the ledger for each task, for the sake of the few that
kill); the delivery count of quorum queues (it grows with each message handed back unharmed).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Delivery, Message
from umbel.servers.ordered import OrderedCommit, Settling, SettlingByCommit
from umbel.servers.seams import (
    NO_CHARGE,
    Capabilities,
    Charge,
    Consumer,
    DeadConsumer,
    DeadLetter,
    Depth,
    Ledger,
    Place,
    Revocation,
    Server,
    Transport,
)
from umbel.servers.timetable import OrderedTimetable, Timetable
from umbel.topology import Binding, Topology
from umbel.wire.names import tree_of

#: Seconds for which a message that comes again, with nothing against it, is kept back.
GRACE = 0.05
#: Seconds after which a charge is forgotten if its message was never seen to end.
CHARGES_EXPIRE = 30 * 86400.0
#: Seconds that the broker has to take a requeued letter.
REQUEUE_TIMEOUT = 10.0

_monotonic = SYSTEM_CLOCK.monotonic


class Accompanied(Server):
    """A ``Server``: the broker's parts with another's ledger, which stays its owner's to close."""

    def __init__(self, broker: Server, ledger: Ledger, timetable: Timetable | None = None) -> None:
        self._broker = broker
        self.display_url = broker.display_url
        self.transport = CompanionTransport(broker.transport, ledger)
        self.results = broker.results
        self.ledger = CompanionLedger(ledger, broker.transport)
        self.bus = broker.bus
        settling = CompanionSettling(SettlingByCommit(broker.committer), ledger)
        self.joins = None
        self.timetable = timetable and OrderedTimetable(timetable, broker.transport.publish)
        self.committer = OrderedCommit(self.transport, self.results, settling)

    def warnings(self) -> Sequence[str]:
        return self._broker.warnings()

    def close(self) -> None:
        self._broker.close()


class CompanionTransport:
    """A ``Transport`` whose deliveries carry what the ledger knows of them."""

    def __init__(self, inner: Transport, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger
        self.capabilities: Capabilities = replace(inner.capabilities, durable_ledger=True)

    def declare(self, topology: Topology) -> None:
        self._inner.declare(topology)

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        self._inner.publish(messages, deadline=deadline)

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> Consumer:
        inner = self._inner.consume(queues, consumer_id=consumer_id, lease=lease)
        return CompanionConsumer(inner, self._ledger)

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        return self._inner.renew(consumer_ids, lease=lease)

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        if dead:  # before they are fenced: what they held is delivered again from then on
            self._ledger.charge(dead, expires_in=CHARGES_EXPIRE)
        return self._inner.recover(dead)

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        return self._inner.depth(queues)

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        return self._inner.find(task_id, queues)

    def queues(self) -> Sequence[str]:
        return self._inner.queues()

    def bindings(self) -> Sequence[Binding] | None:
        return self._inner.bindings()

    def purge(self, queues: Sequence[str]) -> int:
        return self._inner.purge(queues)

    def close(self) -> None:
        self._inner.close()


class CompanionConsumer:
    """A ``Consumer``. One thread owns it, except ``wake``."""

    def __init__(self, inner: Consumer, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger
        #: Received and not looked up yet: the ledger did not answer.
        self._arrived: list[Delivery] = []
        #: What was received, in its order, and until when it is kept back (monotonic time).
        self._line: deque[tuple[float, Delivery]] = deque()
        self._woken = False

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = _monotonic() + timeout
        while True:
            self._line_up(limit, deadline)
            ready = self._ready(limit)
            if ready or self._woken or deadline <= _monotonic():
                self._woken = False
                return ready

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self._inner.give_back(deliveries)

    def wake(self) -> None:
        self._woken = True
        self._inner.wake()

    def close(self) -> None:
        self._line.clear()
        self._inner.close()

    def _line_up(self, limit: int, deadline: float) -> None:
        """Receive what there is room for, until what is kept back first may go on."""
        until = min(deadline, self._line[0][0]) if self._line else deadline
        if not self._arrived:
            room = max(limit - len(self._line), 0)
            self._arrived = self._inner.receive(room, max(until - _monotonic(), 0.0))
        charges = self._charges(self._arrived)
        later = _monotonic() + GRACE
        for each in self._arrived:
            doubtful = each.redelivered and each.message.id not in charges
            self._line.append((later if doubtful else 0.0, each))
        self._arrived = []

    def _ready(self, limit: int) -> list[Delivery]:
        now = _monotonic()
        line = islice(self._line, limit)
        ready = [each for _, each in takewhile(lambda place: place[0] <= now, line)]
        if not ready:
            return []
        charges = self._charges(ready)
        revoked = self._ledger.revoked([name for each in ready for name in _names(each)])
        for _ in ready:
            self._line.popleft()
        return [_marked(each, charges, revoked) for each in ready]

    def _charges(self, deliveries: Sequence[Delivery]) -> dict[str, Charge]:
        again = [each.message.id for each in deliveries if each.redelivered]
        return self._ledger.charges(again) if again else {}


def _names(delivery: Delivery) -> tuple[str, str]:
    """Return the ids under which a task may be revoked."""
    return delivery.message.id, tree_of(delivery.message.headers)


def _marked(
    delivery: Delivery, charges: Mapping[str, Charge], revoked: Mapping[str, Revocation]
) -> Delivery:
    charge = charges.get(delivery.message.id, NO_CHARGE)
    is_revoked = not revoked.keys().isdisjoint(_names(delivery))
    if charge is NO_CHARGE and not is_revoked:
        return delivery
    return replace(
        delivery,
        crashes=charge.crashes,
        suspect=charge.suspect,
        verdict=charge.verdict,
        revoked=is_revoked,
    )


class CompanionSettling:
    """``Settling`` that tells the ledger what ended. Used by the consumer's thread."""

    def __init__(self, inner: Settling, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    def holds(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        return self._inner.holds(deliveries)

    def end(self, deliveries: Sequence[Delivery]) -> int:
        lost = self._inner.end(deliveries)
        self._absolve(deliveries)
        return lost

    def requeue(self, deliveries: Sequence[Delivery]) -> int:
        return self._inner.requeue(deliveries)

    def bury(self, deliveries: Sequence[tuple[Delivery, str]]) -> int:
        """Keep the letters before the messages end: rather twice than never."""
        holds = self._inner.holds([delivery for delivery, _ in deliveries])
        held = [each for each, ours in zip(deliveries, holds, strict=True) if ours]
        self._ledger.bury([_letter(delivery, reason) for delivery, reason in held])
        lost = self._inner.end([delivery for delivery, _ in held])
        self._absolve([delivery for delivery, _ in held])
        return lost + len(deliveries) - len(held)

    def _absolve(self, deliveries: Sequence[Delivery]) -> None:
        charged = [
            each.message.id
            for each in deliveries
            if each.crashes or each.suspect or each.verdict or each.redelivered
        ]
        if charged:
            self._ledger.absolve(charged)


def _letter(delivery: Delivery, reason: str) -> DeadLetter:
    return DeadLetter("", delivery.message, delivery.queue, reason, 0.0, delivery.crashes)


class CompanionLedger:
    """A ``Ledger`` whose letters go back to the broker. Thread-safe."""

    def __init__(self, inner: Ledger, transport: Transport) -> None:
        self._inner = inner
        self._transport = transport

    def dead_letters(self, *, limit: int = 100, after: str = "") -> Sequence[DeadLetter]:
        return self._inner.dead_letters(limit=limit, after=after)

    def requeue(self, keys: Sequence[str]) -> int:
        """See ``Ledger``. Letters are sent, then dropped: a death in between doubles them."""
        wanted = set(keys)
        letters = [each for each in self._all_letters() if each.key in wanted]
        messages = [
            replace(each.message, exchange="", routing_key=each.queue, not_before=0.0)
            for each in letters
        ]
        if messages:
            self._transport.publish(messages, deadline=_monotonic() + REQUEUE_TIMEOUT)
            self._inner.drop([each.key for each in letters])
        return len(letters)

    def _all_letters(self) -> Iterator[DeadLetter]:
        after = ""
        while page := self._inner.dead_letters(after=after):
            yield from page
            after = page[-1].key

    def drop(self, keys: Sequence[str]) -> int:
        return self._inner.drop(keys)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        self._inner.bury(letters)

    def charge(self, dead: Sequence[DeadConsumer], *, expires_in: float) -> None:
        self._inner.charge(dead, expires_in=expires_in)

    def charges(self, message_ids: Sequence[str]) -> dict[str, Charge]:
        return self._inner.charges(message_ids)

    def absolve(self, message_ids: Sequence[str]) -> None:
        self._inner.absolve(message_ids)

    def revoke(
        self, task_ids: Sequence[str], *, expires_in: float, by: str = "", signal: str = ""
    ) -> None:
        self._inner.revoke(task_ids, expires_in=expires_in, by=by, signal=signal)

    def revoked(self, task_ids: Sequence[str]) -> dict[str, Revocation]:
        return self._inner.revoked(task_ids)

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        self._inner.announce(node, record, expires_in=expires_in)

    def nodes(self) -> dict[str, dict[str, Any]]:
        return self._inner.nodes()

    def retire(self, node: str) -> None:
        self._inner.retire(node)

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        return self._inner.acquire(name, holder, lease=lease)

    def release(self, name: str, holder: str) -> None:
        self._inner.release(name, holder)
