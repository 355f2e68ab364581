"""The transport: topology, publishing, consumers.

A hold is a connection (see ``consumer``), so there are no leases here: ``recover`` has nothing to
give back that the server did not give back already, except what consumers of this very process
hold. How often a message was lost or crashed its worker is not counted without a ledger: what the
server counts grows with every message that is handed back unharmed, and would condemn the innocent.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence

from umbel.message import Message
from umbel.servers.rabbitmq.channels import Channels, Hub
from umbel.servers.rabbitmq.consumer import EARLY, RabbitConsumer, Session
from umbel.servers.rabbitmq.link import Turn
from umbel.servers.rabbitmq.management import Management
from umbel.servers.rabbitmq.publishing import Publishing
from umbel.servers.seams import Capabilities, DeadConsumer, Depth, Place
from umbel.topology import Binding, Topology

CAPABILITIES = Capabilities(
    commit="ordered",
    delay_precision=EARLY,
    exchange_types=frozenset({"direct", "topic", "fanout", "headers"}),
    priorities=10,
    dead_letters=True,
    durable_ledger=False,
    stored="RabbitMQ has confirmed it: written to disk, for quorum queues by a majority of nodes.",
    counts_returns=True,
)


class RabbitTransport:
    """A ``Transport``. Thread-safe."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        hub: Hub,
        publishing: Publishing,
        *,
        heartbeat: int,
        management: Management | None = None,
    ) -> None:
        self._hub = hub
        self._publishing = publishing
        self._heartbeat = heartbeat
        self._management = management
        #: By id, while somebody uses them.
        self._consumers: weakref.WeakValueDictionary[str, RabbitConsumer] = (
            weakref.WeakValueDictionary()
        )

    def declare(self, topology: Topology) -> None:
        shared = _without_exclusive(topology, self._hub.exclusive)
        self._order(lambda channels, deadline: channels.control.declare(shared, deadline))
        self._hub.declared.update({queue.name: queue for queue in topology.queues})

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        self._publishing.publish(messages, deadline)

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> RabbitConsumer:
        del lease  # the connection is the lease
        session = Session(self._hub, self._publishing, tuple(queues), consumer_id, self._heartbeat)
        consumer = self._consumers[consumer_id] = RabbitConsumer(session)
        return consumer

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        """Return none: a consumer's lease is its connection, and only its process can judge it."""
        del consumer_ids, lease
        return ()

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        own = [self._consumers.get(each.consumer_id) for each in dead]
        return sum(consumer.fence() for consumer in own if consumer is not None)

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        counts: dict[str, tuple[int, int] | None] = {}

        def count(channels: Channels, deadline: float) -> None:
            for queue in queues:
                counts[queue] = channels.control.count(queue, deadline)

        self._order(count)
        # AMQP tells what is ready; what is held only the management API knows, and what is delayed
        # nobody: it waits in queues that all destinations share.
        held = None if self._management is None else self._management.held()
        return {
            queue: Depth(
                ready=found[0],
                held=(held or {}).get(queue, 0),
                consumers=found[1],
                estimate=True,
                tells_held=held is not None,
            )
            for queue, found in counts.items()
            if found is not None
        }

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        """Return (): AMQP does not let one look into a queue."""
        del task_id, queues
        return ()

    def queues(self) -> Sequence[str]:
        """Return all queues, or those that this process declared: AMQP lists no others."""
        if self._management is not None:
            return self._management.queues()
        return list(self._hub.declared)

    def bindings(self) -> Sequence[Binding] | None:
        """Return all, where the management API may be asked."""
        return None if self._management is None else self._management.bindings()

    def purge(self, queues: Sequence[str]) -> int:
        purged: list[int] = []

        def purge(channels: Channels, deadline: float) -> None:
            purged.extend(channels.control.purge(queue, deadline) for queue in queues)

        self._order(purge)
        return sum(purged)

    def close(self) -> None:
        self._hub.here().link.close()

    def _order(self, order: Callable[[Channels, float], object]) -> None:
        self._publishing.order(Turn(order))


def _without_exclusive(topology: Topology, exclusive: dict[str, Topology]) -> Topology:
    """Return what any connection may declare; keep the rest for the connections of consumers."""
    kept: dict[str, list[Binding]] = {
        queue.name: [] for queue in topology.queues if queue.exclusive
    }
    shared: list[Binding] = []
    for binding in topology.bindings:
        kept.get(binding.queue, shared).append(binding)
    for queue in topology.queues:
        if queue.exclusive:
            exclusive[queue.name] = Topology(queues=(queue,), bindings=tuple(kept[queue.name]))
    queues = tuple(queue for queue in topology.queues if not queue.exclusive)
    return Topology(topology.exchanges, queues, tuple(shared))
