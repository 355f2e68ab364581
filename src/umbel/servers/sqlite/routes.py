"""Exchanges, queues and bindings: where a message goes.

The tables are the truth. Each process keeps what it read of them and compares ``state.topology``, a
counter of changes, inside every transaction that routes: one row, read together with other things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from umbel.message import Message
from umbel.servers.sqlite import schema
from umbel.topology import route


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What publishing and receiving need to know of a queue."""

    id: int
    name: str
    #: Seconds a message may be ready in it.
    message_ttl: float | None = None
    max_length: int | None = None
    #: With ``x-overflow: reject-publish`` a full queue refuses; else its oldest messages make room.
    refuses: bool = False
    #: It has one consumer, and is deleted with it.
    exclusive: bool = False
    #: It is deleted with its last consumer.
    auto_delete: bool = False
    #: Seconds without a consumer after which it is deleted.
    expires: float | None = None
    #: It has a limit of its messages' number or age.
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Routes:
    """The topology as it was at one version. Never changed, so any thread may use it."""

    version: int
    queues: Mapping[str, QueueRow]
    by_id: Mapping[int, QueueRow]
    #: Exchange -> its type and its pairs of key and queue.
    exchanges: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=dict)

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
            return f"there is no queue {message.routing_key!r}"
        if message.exchange not in self.exchanges:
            return f"there is no exchange {message.exchange!r}"
        return f"no queue is bound to exchange {message.exchange!r} for key {message.routing_key!r}"


NO_ROUTES = Routes(-1, {}, {})


def read_routes(connection: schema.Executing) -> Routes:
    """Read the whole topology."""
    execute = connection.execute
    (version,) = execute("SELECT topology FROM state").fetchone()
    schema.check_version(connection)
    rows = [_queue_row(*row) for row in execute("SELECT id, name, options FROM queues").fetchall()]
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
    return Routes(version, {row.name: row for row in rows}, by_id, exchanges)


def _queue_row(number: int, name: str, options: str) -> QueueRow:
    given = json.loads(options)
    return QueueRow(
        number,
        name,
        given["message_ttl"],
        given["max_length"],
        given["arguments"].get("x-overflow") in ("reject-publish", "reject-publish-dlx"),
        given["exclusive"],
        given["auto_delete"],
        given["expires"],
        given["message_ttl"] is not None or given["max_length"] is not None,
    )
