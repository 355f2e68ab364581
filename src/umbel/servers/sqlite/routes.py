"""Exchanges, queues and bindings: declaring them, and where a message goes.

The tables are the truth. Each process keeps what it read of them and compares ``state.topology``, a
counter of changes, inside every transaction that routes: one row, read together with other things.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from umbel.exceptions import TopologyConflict
from umbel.message import Message
from umbel.servers.sqlite.connection import Transaction
from umbel.topology import Binding, Exchange, Queue, Topology, route


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What publishing and receiving need to know of a queue."""

    id: int
    name: str
    message_ttl: float | None = None
    max_length: int | None = None
    #: With ``x-overflow: reject-publish`` a full queue refuses; else its oldest messages make room.
    refuses: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Routes:
    """The topology as it was at one version. Never changed, so any thread may use it."""

    version: int
    queues: Mapping[str, QueueRow]
    by_id: Mapping[int, QueueRow]
    #: Exchange -> its type and its pairs of key and queue.
    exchanges: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=dict)
    #: Some queue has a limit of its messages' number or age.
    limited: bool = False

    def targets(self, message: Message) -> tuple[QueueRow, ...]:
        """Return the queues a message goes to; none if it cannot be routed."""
        if not message.exchange:
            row = self.queues.get(message.routing_key)
            return () if row is None else (row,)
        kind, bindings = self.exchanges.get(message.exchange, ("direct", ()))
        return tuple(self.queues[name] for name in route(kind, bindings, message.routing_key))

    def lost(self, message: Message) -> str:
        """Say why a message cannot be routed."""
        if not message.exchange:
            return f"no queue {message.routing_key!r} exists"
        if message.exchange not in self.exchanges:
            return f"no exchange {message.exchange!r} exists"
        return f"no queue is bound to {message.exchange!r} for the key {message.routing_key!r}"


NO_ROUTES = Routes(-1, {}, {})


def read_routes(connection: sqlite3.Connection | Transaction) -> Routes:
    """Read the whole topology."""
    execute = connection.execute
    (version,) = execute("SELECT topology FROM state").fetchone()
    rows = [
        _queue_row(*row) for row in execute("SELECT id, name, options FROM queues").fetchall()
    ]
    by_id = {row.id: row for row in rows}
    bound: dict[str, list[tuple[str, str]]] = {}
    for exchange, key, queue in execute(
        "SELECT exchange, routing_key, queue FROM bindings ORDER BY id"
    ).fetchall():
        bound.setdefault(exchange, []).append((key, by_id[queue].name))
    exchanges = {
        name: (json.loads(options)["type"], tuple(bound.get(name, ())))
        for name, options in execute("SELECT name, options FROM exchanges").fetchall()
    }
    limited = any(row.message_ttl is not None or row.max_length is not None for row in rows)
    return Routes(version, {row.name: row for row in rows}, by_id, exchanges, limited)


def _queue_row(number: int, name: str, options: str) -> QueueRow:
    given = json.loads(options)
    return QueueRow(
        number,
        name,
        given["message_ttl"],
        given["max_length"],
        given["arguments"].get("x-overflow") in ("reject-publish", "reject-publish-dlx"),
        given["exclusive"],
    )


def declare(transaction: Transaction, topology: Topology, *, now: float) -> None:
    """Make a topology exist. Raises TopologyConflict; then the caller's transaction undoes all."""
    before = _size(transaction)
    for exchange in topology.exchanges:
        _declare_exchange(transaction, exchange)
    for queue in topology.queues:
        _declare_queue(transaction, queue, now)
    for binding in topology.bindings:
        _bind(transaction, binding.exchange, binding)
    if _size(transaction) != before:
        transaction.execute("UPDATE state SET topology = topology + 1")


def _size(transaction: Transaction) -> tuple[int, ...]:
    # Declaring only ever adds rows, and the ids of queues and bindings are never used twice.
    return tuple(
        transaction.execute(
            "SELECT (SELECT count(*) FROM queues), (SELECT count(*) FROM bindings),"
            " (SELECT count(*) FROM exchanges)"
        ).fetchone()
    )


def _declare_exchange(transaction: Transaction, exchange: Exchange) -> None:
    if not exchange.name:
        return
    wanted = {
        "type": exchange.type,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "arguments": dict(exchange.arguments),
    }
    row = transaction.execute(
        "SELECT options FROM exchanges WHERE name = ?", (exchange.name,)
    ).fetchone()
    if row is not None:
        _compare(f"exchange {exchange.name!r}", json.loads(row[0]), wanted)
        return
    if exchange.type not in ("direct", "topic", "fanout"):
        raise TopologyConflict(
            f"exchange {exchange.name!r} has type {exchange.type!r}: "
            "SQLite knows direct, topic and fanout"
        )
    transaction.execute(
        "INSERT INTO exchanges VALUES (?, ?)", (exchange.name, _as_json(wanted))
    )


def _declare_queue(transaction: Transaction, queue: Queue, now: float) -> None:
    wanted = {
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "auto_delete": queue.auto_delete,
        "expires": queue.expires,
        "message_ttl": queue.message_ttl,
        "max_length": queue.max_length,
        "max_priority": queue.max_priority,
        "arguments": dict(queue.queue_arguments),
    }
    row = transaction.execute(
        "SELECT options FROM queues WHERE name = ?", (queue.name,)
    ).fetchone()
    if row is not None:
        _compare(f"queue {queue.name!r}", json.loads(row[0]), wanted)
        transaction.execute("UPDATE queues SET used_at = ? WHERE name = ?", (now, queue.name))
    else:
        transaction.execute(
            "INSERT INTO queues (name, options, used_at) VALUES (?, ?, ?)",
            (queue.name, _as_json(wanted), now),
        )
    if queue.exchange.name:
        _declare_exchange(transaction, queue.exchange)
        _bind(
            transaction,
            queue.exchange.name,
            Binding(queue.exchange.name, queue.name, queue.routing_key),
        )


def _bind(transaction: Transaction, exchange: str, binding: Binding) -> None:
    known = transaction.execute("SELECT 1 FROM exchanges WHERE name = ?", (exchange,)).fetchone()
    row = transaction.execute("SELECT id FROM queues WHERE name = ?", (binding.queue,)).fetchone()
    if known is None or row is None:
        missing = f"exchange {exchange!r}" if known is None else f"queue {binding.queue!r}"
        raise TopologyConflict(f"cannot bind {binding.queue!r} to {exchange!r}: no {missing} exists")
    transaction.execute(
        "INSERT OR IGNORE INTO bindings (exchange, routing_key, queue) VALUES (?, ?, ?)",
        (exchange, binding.routing_key, row[0]),
    )


def _compare(what: str, has: dict[str, Any], wanted: dict[str, Any]) -> None:
    wanted = json.loads(_as_json(wanted))
    differing = [key for key in wanted if has.get(key) != wanted[key]]
    if differing:
        first = differing[0]
        raise TopologyConflict(
            f"{what} exists with {first} = {has.get(first)!r}, and was now declared with "
            f"{first} = {wanted[first]!r}: use another name, or delete it first"
        )


def _as_json(options: dict[str, Any]) -> str:
    return json.dumps(options, separators=(",", ":"), default=str)
