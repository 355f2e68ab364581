"""What waits in queues, and who consumes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umbel.control.nodes import WorkerNode
from umbel.servers.seams import Depth, Transport


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
