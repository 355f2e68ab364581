"""Who works: the records that nodes keep in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umbel.servers.seams import Ledger


@dataclass(frozen=True, slots=True)
class RunningTask:
    """What a process runs."""

    id: str
    name: str
    #: Wall time of its start.
    since: float


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One process of a node."""

    pid: int
    consumer_id: str
    processed: int
    #: The longest running first; of very many only the first.
    running: tuple[RunningTask, ...]
    #: How many run.
    count: int


@dataclass(frozen=True, slots=True)
class WorkerNode:
    """A worker that lives, as its node described it at most a few seconds ago."""

    name: str
    pid: int
    queues: tuple[str, ...]
    tasks: frozenset[str]
    concurrency: int
    pool: str
    #: Tasks ended since it started.
    processed: int
    processes: tuple[WorkerProcess, ...]


def living_nodes(ledger: Ledger | None) -> list[WorkerNode]:
    """Return the nodes that live, by name; none where there is no ledger to tell."""
    records = ledger.nodes() if ledger is not None else {}
    return [_node(name, records[name]) for name in sorted(records)]


def _node(name: str, record: Mapping[str, Any]) -> WorkerNode:
    # Another version may say less, or more.
    processes = tuple(map(_process, record.get("processes", ())))
    return WorkerNode(
        name,
        record.get("pid", 0),
        tuple(record.get("queues", ())),
        frozenset(record.get("tasks", ())),
        record.get("concurrency", 0),
        record.get("pool", ""),
        record.get("processed", 0),
        processes,
    )


def _process(record: Mapping[str, Any]) -> WorkerProcess:
    running = tuple(RunningTask(**each) for each in record["running"])
    return WorkerProcess(
        record["pid"], record["consumer"], record["processed"], running, record["count"]
    )
