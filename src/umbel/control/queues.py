"""What waits in queues, and who consumes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from umbel.control.nodes import WorkerNode
from umbel.routing import Broadcast
from umbel.servers.seams import Depth, Transport
from umbel.topology import Binding, Queue


@dataclass(frozen=True, slots=True)
class QueueSight:
    """A queue, as its server and the nodes tell."""

    name: str
    depth: Depth
    #: Processes that consume it; None = nobody here knows.
    consumers: int | None
    nodes: tuple[str, ...]


def look_at_queues(
    transport: Transport, names: Sequence[str], nodes: Sequence[WorkerNode] | None
) -> list[QueueSight]:
    """Return these queues as far as they exist; without a ledger ``nodes`` is None."""
    depths = transport.depth(names)
    return [_sight(name, depths[name], nodes) for name in names if name in depths]


def _sight(name: str, depth: Depth, nodes: Sequence[WorkerNode] | None) -> QueueSight:
    consuming = [node for node in nodes or () if name in node.queues]
    consumers = depth.consumers
    if consumers is None and nodes is not None:
        consumers = sum(len(node.processes) for node in consuming)
    return QueueSight(name, depth, consumers, tuple(node.name for node in consuming))


def look_at_bindings(
    transport: Transport, declared: Iterable[Queue | Broadcast]
) -> list[tuple[str, str, str]]:
    """Return exchange, key and queue of all bindings; of those declared, if it does not tell."""
    found = transport.bindings()
    if found is None:
        found = [Binding(each.exchange.name, each.name, _key(each)) for each in declared]
    rows = ((each.exchange, each.routing_key, each.queue) for each in found)
    return sorted(row for row in rows if row[0])


def _key(queue: Queue | Broadcast) -> str:
    return queue.routing_key if isinstance(queue, Queue) else ""
