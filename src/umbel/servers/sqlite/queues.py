"""Messages: the transport, and what keeps consumers' holds right when they die."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from umbel.exceptions import PublishError, TopologyConflict, Unroutable
from umbel.message import Message
from umbel.servers.seams import Capabilities, DeadConsumer, Depth
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Database, Transaction
from umbel.servers.sqlite.consumer import SqliteConsumer, fence, subscribe
from umbel.servers.sqlite.packing import unpack_any
from umbel.servers.sqlite.routes import declare, read_routes
from umbel.servers.sqlite.storing import Packed, Writer
from umbel.topology import Topology

CAPABILITIES = Capabilities(
    commit="atomic",
    delay_precision=0.001,
    exchange_types=frozenset({"direct", "topic", "fanout"}),
    priorities=10,
    dead_letters=True,
    durable_ledger=True,
    stored="written to the file's log: survives the death of every process, and of the machine "
    "with synchronous=FULL",
)


class SqliteTransport:
    """See ``seams.Transport``."""

    capabilities = CAPABILITIES

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def declare(self, topology: Topology) -> None:
        with self._database.write() as transaction:
            declare(transaction, topology, now=self._database.clock.now())

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        refused: list[tuple[str, str]] = []
        unroutable = True
        packed: list[Packed] = []
        with self._database.write(deadline=deadline) as transaction:
            writing = self._writer.begin(transaction)
            for message in messages:
                found = writing.resolve(message)
                if isinstance(found, str):
                    refused.append((message.id, found))
                    unroutable = unroutable and not writing.routes.targets(message)
                else:
                    packed.append(found)
            if packed:
                writing.store(packed)
        if refused:
            kind = Unroutable if unroutable else PublishError
            raise kind(f"{self._database.path}: not sent", refused)

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> SqliteConsumer:
        consumer = SqliteConsumer(
            self._database, self._writer, tuple(queues), consumer_id=consumer_id, lease=lease
        )
        with self._database.write() as transaction:
            self._refuse_exclusive(transaction, queues)
            subscribe(transaction, consumer, now=self._database.clock.now())
        return consumer

    def _refuse_exclusive(self, transaction: Transaction, queues: Sequence[str]) -> None:
        routes = read_routes(transaction)
        exclusive = [name for name in queues if name in routes.queues and routes.queues[name].exclusive]
        for name in exclusive:
            taken = transaction.execute(
                "SELECT 1 FROM subscriptions WHERE queue = ?", (name,)
            ).fetchone()
            if taken is not None:
                raise TopologyConflict(f"queue {name!r} is exclusive and already has its consumer")

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        lost: list[str] = []
        if not consumer_ids:
            return lost
        until = self._database.clock.now() + lease
        with self._database.write() as transaction:
            for consumer_id in consumer_ids:
                cursor = transaction.execute(
                    "UPDATE consumers SET lease_until = ? WHERE consumer_id = ?",
                    (until, consumer_id),
                )
                if not cursor.rowcount:
                    lost.append(consumer_id)
        return lost

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        now = self._database.clock.now()
        if not dead and not self._has_lapsed(now):
            return 0
        freed = 0
        with self._database.write() as transaction:
            for consumer in dead:
                row = transaction.execute(
                    "SELECT number FROM consumers WHERE consumer_id = ?", (consumer.consumer_id,)
                ).fetchone()
                if row is not None:
                    _charge(transaction, row[0], consumer)
                    freed += fence(transaction, row[0], losses=0)
            lapsed = transaction.execute(
                "SELECT number FROM consumers WHERE lease_until < ?", (now,)
            ).fetchall()
            for (number,) in lapsed:
                freed += fence(transaction, number, losses=1)
        return freed

    def _has_lapsed(self, now: float) -> bool:
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT 1 FROM consumers WHERE lease_until < ? LIMIT 1", (now,)
            ).fetchone()
        return row is not None

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        with self._database.read() as connection:
            connection.execute("BEGIN")
            try:
                routes = read_routes(connection)
                counts = {
                    table: dict(
                        connection.execute(
                            f"SELECT queue, count(*) FROM {table} GROUP BY queue"  # noqa: S608 -- ours
                        ).fetchall()
                    )
                    for table in ("ready", "delayed", "held")
                }
                found = {}
                for name in queues:
                    row = routes.queues.get(name)
                    if row is not None:
                        oldest = connection.execute(
                            "SELECT m.data, m.body FROM messages AS m WHERE m.id ="
                            " (SELECT min(id) FROM ready WHERE queue = ?)",
                            (row.id,),
                        ).fetchone()
                        found[name] = Depth(
                            counts["ready"].get(row.id, 0),
                            counts["delayed"].get(row.id, 0),
                            counts["held"].get(row.id, 0),
                            unpack_any(*oldest)[0].sent_at or None if oldest else None,
                        )
            finally:
                connection.execute("COMMIT")
        return found

    def queues(self) -> Sequence[str]:
        with self._database.read() as connection:
            rows = connection.execute("SELECT name FROM queues ORDER BY id").fetchall()
        return [name for (name,) in rows]

    def purge(self, queues: Sequence[str]) -> int:
        deleted = 0
        with self._database.write() as transaction:
            ids = transaction.execute(
                "SELECT id FROM queues WHERE name IN (SELECT value FROM json_each(?))",
                (json.dumps(list(queues)),),
            ).fetchall()
            for (queue,) in ids:
                for table in ("ready", "delayed"):
                    transaction.execute(
                        f"DELETE FROM messages WHERE id IN (SELECT id FROM {table} WHERE queue = ?)",  # noqa: S608 -- ours
                        (queue,),
                    )
                    cursor = transaction.execute(
                        f"DELETE FROM {table} WHERE queue = ?",  # noqa: S608 -- ours
                        (queue,),
                    )
                    deleted += cursor.rowcount
        return deleted

    def close(self) -> None:
        self._database.close()


def _charge(transaction: Transaction, number: int, dead: DeadConsumer) -> None:
    if not dead.running:
        return
    running = set(dead.running)
    charged = [
        held_id
        for held_id, _, data in transaction.execute(sql.HELD_BY, (number,)).fetchall()
        if unpack_any(data, b"")[0].id in running
    ]
    alone = len(running) == 1
    for held_id in charged:
        crashes = int(alone and not dead.verdict)
        suspect = int(not alone and not dead.verdict)
        transaction.execute(sql.CHARGE, (held_id, crashes, suspect, dead.verdict))
