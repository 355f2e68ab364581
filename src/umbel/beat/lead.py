"""Who leads. A lease of the ledger where there is one; on RabbitMQ without one, an exclusive queue.

The queue elects as well, but fences nothing: a leader that a partition has cut off may have sent
ticks that its successor sends again. What it knew of past runs is lost with it, too.
"""

from __future__ import annotations

from typing import Protocol

from umbel import servers
from umbel.exceptions import ConnectionLost, TopologyConflict
from umbel.ids import new_id
from umbel.opened import Servers
from umbel.servers.seams import Consumer, Ledger, Transport
from umbel.servers.timetable import OrderedTimetable, Timetable
from umbel.topology import Queue, Topology


class Lead(Protocol):
    """The right to send what is due. Owned by the scheduler's thread."""

    def take(self) -> int | None:
        """Take it or keep it; return its token, or None if another has it."""
        ...

    def leave(self) -> None:
        """Give it up, if one has it."""
        ...


class LeaseLead:
    """``Lead`` by a lease, which ends if its holder dies or sleeps."""

    def __init__(self, ledger: Ledger, table: str, holder: str, *, lease: float) -> None:
        self._ledger = ledger
        self._table = table
        self._holder = holder
        self._lease = lease

    def take(self) -> int | None:
        return self._ledger.acquire(self._table, self._holder, lease=self._lease)

    def leave(self) -> None:
        self._ledger.release(self._table, self._holder)


class QueueLead:
    """``Lead`` by a queue that one connection at a time may have; it ends with the connection."""

    def __init__(self, transport: Transport, table: str, inner: LeaseLead) -> None:
        self._transport = transport
        self._queue = f"umbel.{table}"
        #: Gives tokens; nobody else has it.
        self._inner = inner
        self._consumer: Consumer | None = None

    def take(self) -> int | None:
        try:
            if self._consumer is None:
                queue = Queue(self._queue, durable=False, exclusive=True)
                self._transport.declare(Topology(queues=(queue,)))
                self._consumer = self._transport.consume(
                    [self._queue], consumer_id=new_id(), lease=60.0
                )
            self._consumer.receive(1, 0.0)
        except TopologyConflict:
            self.leave()
            return None
        except ConnectionLost:
            self.leave()
            raise
        return self._inner.take()

    def leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


def lead_and_timetable(
    opened: Servers, table: str, holder: str, *, lease: float
) -> tuple[Lead, Timetable]:
    """Return what elects, and where entries and progress are kept."""
    broker = opened.broker
    if broker.ledger is not None and broker.timetable is not None:
        return LeaseLead(broker.ledger, table, holder, lease=lease), broker.timetable
    own = servers.open(f"memory://beat-{new_id()}", {})
    assert own.ledger is not None
    assert own.timetable is not None
    inner = LeaseLead(own.ledger, table, holder, lease=lease)
    lead = QueueLead(broker.transport, table, inner)
    return lead, OrderedTimetable(own.timetable, broker.transport.publish)
