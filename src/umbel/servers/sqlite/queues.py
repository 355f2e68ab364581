"""Messages: the transport."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager

from umbel.exceptions import TopologyConflict
from umbel.message import Message
from umbel.servers.seams import Capabilities, DeadConsumer, Depth, Place
from umbel.servers.sqlite import holds
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.consumer import SqliteConsumer
from umbel.servers.sqlite.declaring import declare
from umbel.servers.sqlite.finding import find
from umbel.servers.sqlite.packing import unpack
from umbel.servers.sqlite.routes import Routes, read_routes
from umbel.servers.sqlite.schema import Executing
from umbel.servers.sqlite.storing import Routed, Store, Writing, sort
from umbel.servers.sqlite.upkeep import Upkeep
from umbel.topology import Binding, Topology

CAPABILITIES = Capabilities(
    commit="atomic",
    delay_precision=0.001,
    exchange_types=frozenset({"direct", "topic", "fanout"}),
    priorities=10,
    dead_letters=True,
    durable_ledger=True,
    stored="written to the file's log: it survives the death of every process, and with "
    "synchronous=FULL a power cut",
    embedded=True,
    finds="exact",
)


class SqliteTransport:
    """See ``seams.Transport``."""

    capabilities = CAPABILITIES

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database
        self._upkeep = Upkeep(self._database)

    def declare(self, topology: Topology) -> None:
        now = self._database.clock.now()
        self._database.write(lambda transaction: declare(transaction, topology, now=now))

    # --- publishing

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        packed = self._store.pack(messages)
        refused: list[tuple[Message, str]] = []

        def store(transaction: Transaction) -> Writing:
            writing = self._store.begin(transaction)
            routed: list[Routed] = []
            for each in packed:
                found = writing.route(each)
                if isinstance(found, str):
                    refused.append((each[0], found))
                else:
                    routed.append(found)
            if routed:
                writing.store(routed)
            return writing

        writing = self._database.write(store, deadline=deadline)
        if refused:
            raise writing.refusal(refused)

    # --- consumers

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> SqliteConsumer:
        def subscribe(transaction: Transaction) -> int:
            _refuse_exclusive(transaction, queues)
            until = self._database.clock.now() + lease
            return holds.subscribe(transaction, consumer_id, queues, until=until)

        number = self._database.write(subscribe)
        return SqliteConsumer(
            self._store, queues, consumer_id=consumer_id, lease=lease, number=number
        )

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        until = self._database.clock.now() + lease

        def extend(transaction: Transaction) -> list[str]:
            return [
                consumer_id
                for consumer_id in consumer_ids
                if not transaction.execute(sql.RENEW, (until, consumer_id)).rowcount
            ]

        return self._database.write(extend) if consumer_ids else []

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        """See ``seams.Transport.recover``. Also keeps the file small, a slice at a time."""

        def bury(transaction: Transaction) -> int:
            writing = self._store.begin(transaction)
            return _bury(transaction, dead, writing) + _bury_lapsed(transaction, writing)

        freed = self._database.write(bury) if dead or self._some_lapsed() else 0
        self._upkeep.sweep()
        return freed

    def _some_lapsed(self) -> bool:
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT 1 FROM consumers WHERE lease_until < ? LIMIT 1",
                (self._database.clock.now(),),
            ).fetchone()
        return row is not None

    # --- looking

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        now = self._database.clock.now()
        with self._at_once() as connection:
            routes = read_routes(connection)
            return {
                name: _depth(connection, routes.queues[name].id, now)
                for name in queues
                if name in routes.queues
            }

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        with self._at_once() as connection:
            found = find(connection, task_id, self._database.clock.now())
        return [place for place in found if place.state == "held" or place.queue in queues]

    @contextmanager
    def _at_once(self) -> Generator[Executing]:
        """Read in one transaction, so that all is seen as of one moment."""
        with self._database.read() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def queues(self) -> Sequence[str]:
        with self._database.read() as connection:
            rows = connection.execute("SELECT name FROM queues ORDER BY id").fetchall()
        return [name for (name,) in rows]

    def bindings(self) -> Sequence[Binding]:
        with self._at_once() as connection:
            exchanges = read_routes(connection).exchanges
        return [
            Binding(name, queue, key)
            for name, (_, bound) in exchanges.items()
            for key, queue in bound
        ]

    def purge(self, queues: Sequence[str]) -> int:
        names = json.dumps(list(queues))
        return self._database.write(lambda transaction: _purge(transaction, names))

    def close(self) -> None:
        self._database.close()


def _refuse_exclusive(transaction: Transaction, queues: Iterable[str]) -> None:
    routes = read_routes(transaction)
    for name in queues:
        if name in routes.queues and routes.queues[name].exclusive:
            row = transaction.execute(
                "SELECT 1 FROM subscriptions WHERE queue = ?", (name,)
            ).fetchone()
            if row is not None:
                raise TopologyConflict(f"queue {name!r} is exclusive and has its consumer already")


def _bury(transaction: Transaction, dead: Sequence[DeadConsumer], writing: Writing) -> int:
    freed = 0
    for consumer in dead:
        row = transaction.execute(
            "SELECT number FROM consumers WHERE consumer_id = ?", (consumer.consumer_id,)
        ).fetchone()
        if row is not None:
            holds.charge(transaction, row[0], consumer)
            freed += _fence(transaction, row[0], writing.routes, writing.now, losses=0)
    return freed


def _bury_lapsed(transaction: Transaction, writing: Writing) -> int:
    lapsed = transaction.execute(
        "SELECT number FROM consumers WHERE lease_until < ?", (writing.now,)
    ).fetchall()
    return sum(
        _fence(transaction, number, writing.routes, writing.now, losses=1) for (number,) in lapsed
    )


def _fence(
    transaction: Transaction, number: int, routes: Routes, now: float, *, losses: int
) -> int:
    return holds.fence(transaction, number, routes=routes, now=now, losses=losses, seen=1)


def _purge(transaction: Transaction, names: str) -> int:
    deleted = 0
    sort(transaction)
    for (queue,) in transaction.execute(sql.QUEUE_IDS, (names,)).fetchall():
        for waiting, delete in sql.PURGE:
            transaction.execute(waiting, (queue,))
            deleted += transaction.execute(delete, (queue,)).rowcount
    return deleted


def _depth(connection: Executing, queue: int, now: float) -> Depth:
    ready, delayed, held, consumers = connection.execute(sql.DEPTH, (queue, now)).fetchone()
    oldest = connection.execute(sql.OLDEST, (queue,)).fetchone()
    sent_at = unpack(*oldest)[0].sent_at if oldest else 0.0
    return Depth(ready, delayed, held, sent_at or None, consumers)
