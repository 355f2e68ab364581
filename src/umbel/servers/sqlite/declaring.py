"""Making exchanges, queues and bindings exist, and deleting queues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from umbel.exceptions import TopologyConflict
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.storing import sort
from umbel.topology import Binding, Exchange, Queue, Topology


def declare(transaction: Transaction, topology: Topology, *, now: float) -> None:
    """Make a topology exist. Raises TopologyConflict; then the caller's transaction undoes all."""
    changes = [
        *[_declare_exchange(transaction, exchange) for exchange in topology.exchanges],
        *[_declare_queue(transaction, queue, now) for queue in topology.queues],
        *[_bind(transaction, binding) for binding in topology.bindings],
    ]
    if any(changes):
        _count_change(transaction)


def delete_queue(transaction: Transaction, queue: int) -> None:
    """Delete a queue with what waits in it; what is held of it may still be committed."""
    sort(transaction)
    for waiting, delete in sql.PURGE:
        transaction.execute(waiting, (queue,))
        transaction.execute(delete, (queue,))
    transaction.execute("DELETE FROM bindings WHERE queue = ?", (queue,))
    transaction.execute("DELETE FROM queues WHERE id = ?", (queue,))
    transaction.execute(
        "DELETE FROM exchanges WHERE json_extract(options, '$.auto_delete')"
        " AND name NOT IN (SELECT exchange FROM bindings)"
    )
    _count_change(transaction)


def _count_change(transaction: Transaction) -> None:
    transaction.execute("UPDATE state SET topology = topology + 1")


def _declare_exchange(transaction: Transaction, exchange: Exchange) -> bool:
    if not exchange.name:
        return False
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
        return False
    if exchange.type not in ("direct", "topic", "fanout"):
        raise TopologyConflict(
            f"exchange {exchange.name!r} shall have type {exchange.type!r}: "
            "SQLite has direct, topic and fanout"
        )
    transaction.execute("INSERT INTO exchanges VALUES (?, ?)", (exchange.name, _as_json(wanted)))
    return True


def _declare_queue(transaction: Transaction, queue: Queue, now: float) -> bool:
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
    row = transaction.execute("SELECT options FROM queues WHERE name = ?", (queue.name,)).fetchone()
    if row is None:
        transaction.execute(
            "INSERT INTO queues (name, options, used_at) VALUES (?, ?, ?)",
            (queue.name, _as_json(wanted), now),
        )
    else:
        _compare(f"queue {queue.name!r}", json.loads(row[0]), wanted)
        transaction.execute("UPDATE queues SET used_at = ? WHERE name = ?", (now, queue.name))
    bound = _bind_first(transaction, queue)
    return row is None or bound


def _bind_first(transaction: Transaction, queue: Queue) -> bool:
    if not queue.exchange.name:
        return False
    _declare_exchange(transaction, queue.exchange)
    arguments = queue.binding_arguments
    return _bind(
        transaction, Binding(queue.exchange.name, queue.name, queue.routing_key, arguments)
    )


def _bind(transaction: Transaction, binding: Binding) -> bool:
    exchange, queue = binding.exchange, binding.queue
    known = transaction.execute("SELECT 1 FROM exchanges WHERE name = ?", (exchange,)).fetchone()
    row = transaction.execute("SELECT id FROM queues WHERE name = ?", (queue,)).fetchone()
    if known is None or row is None:
        raise TopologyConflict(f"cannot bind {queue!r} to {exchange!r}: declare both first")
    cursor = transaction.execute(
        "INSERT OR IGNORE INTO bindings (exchange, routing_key, queue, arguments)"
        " VALUES (?, ?, ?, ?)",
        (exchange, binding.routing_key, row[0], _as_json(dict(binding.arguments))),
    )
    return cursor.rowcount > 0


def _compare(what: str, has: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wanted = json.loads(_as_json(wanted))
    for name, value in wanted.items():
        if has.get(name) != value:
            raise TopologyConflict(
                f"{what} exists with {name} = {has.get(name)!r}, and was declared with "
                f"{name} = {value!r} now: use another name, or delete it first"
            )


def _as_json(options: Mapping[str, Any]) -> str:
    return json.dumps(options, separators=(",", ":"), default=str)
