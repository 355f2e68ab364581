"""A session that receives. One thread owns it; ``wake`` may be called from any."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Delivery
from umbel.servers.sqlite import bells
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Database, Transaction
from umbel.servers.sqlite.packing import unpack_any
from umbel.servers.sqlite.storing import SOON, Writer

#: Delayed messages made ready by one receive, so that many due at once do not stall everyone.
PROMOTE_LIMIT = 500


class SqliteConsumer:
    """See ``seams.Consumer``. A delivery's tag is (message's id, number of the consumer)."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        queues: tuple[str, ...],
        *,
        consumer_id: str,
        lease: float,
    ) -> None:
        self.consumer_id = consumer_id
        self.lease = lease
        self.queues = queues
        #: What the holds carry; a new one after the session was fenced. -1 = not yet registered.
        self.number = -1
        self._database = database
        self._writer = writer
        self._bell = database.bell(bells.CONSUMER)
        self._topology = -1
        self._ids: list[int] = []
        self._names: dict[int, str] = {}
        self._next = ""
        self._closed = False

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = SYSTEM_CLOCK.monotonic() + timeout
        deliveries = self._reserve(limit)
        while not deliveries and not self._bell.woken():
            left = deadline - SYSTEM_CLOCK.monotonic()
            if left <= 0:
                break
            if self._sleep(left):
                deliveries = self._reserve(limit)
        return deliveries

    def _sleep(self, timeout: float) -> bool:
        """Wait to be rung; tell whether there may be something."""
        bell = self._bell
        bell.idle()
        try:
            ready, due = self._peek()
            if ready:
                return True
            until_due = SOON if due is None else due - self._database.clock.now()
            bell.wait(min(timeout, SOON, until_due))
        finally:
            rung = bell.busy()
        if rung:
            bell.found()
            return True
        ready, due = self._peek()
        return ready or (due is not None and due <= self._database.clock.now())

    def _peek(self) -> tuple[bool, float | None]:
        with self._database.read() as connection:
            ready, due = connection.execute(sql.PEEK, (json.dumps(self._ids),)).fetchone()
        return bool(ready), due

    def _reserve(self, limit: int) -> list[Delivery]:
        now = self._database.clock.now()
        with self._database.write() as transaction:
            topology, number, due, revoking = transaction.execute(
                sql.BEGIN_RECEIVE, (self.number,)
            ).fetchone()
            if number is None:
                subscribe(transaction, self, now=now)
            if topology != self._topology:
                self._resolve(transaction, topology)
            if due is not None and due <= now:
                _promote(transaction, now)
            picked = self._pick(transaction, limit)
            if not picked:
                return []
            for queue, rank, first, last in _runs(picked):
                span = (self.number, queue, rank, first, last)
                transaction.execute(sql.HOLD, span)
                transaction.execute(sql.UNREADY, span)
            rows = transaction.execute(
                sql.FETCH, (json.dumps([row[2] for row in picked]),)
            ).fetchall()
            deliveries = self._deliveries(rows)
            return _mark_revoked(transaction, deliveries, now) if revoking else deliveries

    def _resolve(self, transaction: Transaction, topology: int) -> None:
        routes = self._writer.refresh(topology, transaction)
        found = [routes.queues[name] for name in self.queues if name in routes.queues]
        self._ids = [row.id for row in found]
        self._names = {row.id: row.name for row in found}
        self._next = sql.NEXT_OF_ONE if len(found) == 1 else sql.next_of_many(len(found))
        self._topology = topology
        self._bell.wants(self._ids)

    def _pick(self, transaction: Transaction, limit: int) -> list[tuple[int, int, int]]:
        if len(self._ids) == 1:
            return transaction.execute(self._next, (self._ids[0], limit)).fetchall()
        if not self._ids:
            return []
        return transaction.execute(self._next, (limit, *self._ids)).fetchall()

    def _deliveries(self, rows: Sequence[tuple[int, int, int, int, int, int, str, str, bytes]]) -> list[Delivery]:
        number, names = self.number, self._names
        deliveries = []
        for id_, queue, crashes, losses, suspect, redelivered, verdict, data, body in rows:
            message, problem = unpack_any(data, body)
            deliveries.append(
                Delivery(
                    message,
                    names[queue],
                    (id_, number),
                    crashes,
                    losses,
                    bool(suspect),
                    bool(redelivered),
                    False,
                    verdict,
                    problem,
                )
            )
        return deliveries

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        tags = {each.tag[0]: each for each in deliveries}
        if not tags:
            return
        with self._database.write() as transaction:
            held = transaction.execute(sql.HELD, (json.dumps(list(tags)),)).fetchall()
            ours = [row for row in held if row[1] == tags[row[0]].tag[1]]
            ids = (json.dumps([row[0] for row in ours]),)
            transaction.execute(sql.GIVE_BACK, ids)
            transaction.execute(sql.UNHOLD, ids)
            for _, _, queue, _ in ours:
                transaction.queued[queue] = transaction.queued.get(queue, 0) + 1

    def wake(self) -> None:
        self._bell.wake()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._bell.close()
        with self._database.write() as transaction:
            fence(transaction, self.number, losses=0)


def subscribe(transaction: Transaction, consumer: SqliteConsumer, *, now: float) -> None:
    """Register a session, or one that was fenced anew; what it held before stays lost to it."""
    cursor = transaction.execute(
        "INSERT INTO consumers (consumer_id, lease_until) VALUES (?, ?)",
        (consumer.consumer_id, now + consumer.lease),
    )
    assert cursor.lastrowid is not None
    consumer.number = cursor.lastrowid
    transaction.executemany(
        "INSERT OR IGNORE INTO subscriptions VALUES (?, ?)",
        [(name, consumer.number) for name in consumer.queues],
    )


def fence(transaction: Transaction, number: int, *, losses: int) -> int:
    """End a session: give back what it holds, and make all its later commits stale."""
    held = transaction.execute(
        "SELECT queue, count(*) FROM held WHERE consumer = ? GROUP BY queue", (number,)
    ).fetchall()
    if held:
        transaction.execute(sql.GIVE_BACK_OF, (number, losses))
        transaction.execute(sql.UNHOLD_OF, (number,))
        for queue, count in held:
            transaction.queued[queue] = transaction.queued.get(queue, 0) + count
    transaction.execute("DELETE FROM subscriptions WHERE consumer = ?", (number,))
    transaction.execute("DELETE FROM consumers WHERE number = ?", (number,))
    return sum(count for _, count in held)


def _promote(transaction: Transaction, now: float) -> None:
    due = transaction.execute(sql.DUE, (now, PROMOTE_LIMIT)).fetchall()
    transaction.executemany(sql.DELETE_DELAYED, [row[:2] for row in due])
    transaction.executemany(sql.INSERT_PROMOTED, [(row[2], row[3], row[1]) for row in due])
    for _, _, queue, _ in due:
        transaction.queued[queue] = transaction.queued.get(queue, 0) + 1


def _runs(picked: list[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Group what was picked: per queue and rank it is all from the first to the last id."""
    ordered = sorted(picked)
    runs = []
    for (queue, rank), rows in groupby(ordered, key=lambda row: row[:2]):
        ids = [row[2] for row in rows]
        runs.append((queue, rank, ids[0], ids[-1]))
    return runs


def _mark_revoked(
    transaction: Transaction, deliveries: list[Delivery], now: float
) -> list[Delivery]:
    ids = json.dumps([each.message.id for each in deliveries])
    revoked = {task_id for (task_id,) in transaction.execute(sql.REVOKED, (ids, now)).fetchall()}
    return [
        replace(each, revoked=True) if each.message.id in revoked else each for each in deliveries
    ]
