"""A session that receives. One thread owns it; ``wake`` may be called from any.

A receive is one transaction: what is picked moves from ``ready`` to ``held`` with the session's
number. A queue of a million messages costs what one of ten does: what is picked is the beginning of
an index, and the statements that move it are ranges of that index. The bytes are read after the
transaction, as others wait for its end, by a connection that needs no lock. If that fails they are
read by the next receive: what is held and not yet read is remembered from before the transaction's
end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Delivery
from umbel.servers.sqlite import holds, limits
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.bells import CONSUMER, Bell
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.packing import storable, unpack
from umbel.servers.sqlite.storing import NAP, Store, sort
from umbel.wire.names import tree_of

#: Delayed messages made ready by one receive, so that many due at once do not stall everyone.
PROMOTE_LIMIT = 500

#: Above so many queues each is asked by a statement of its own; SQLite joins at most 500 in one.
MANY_QUEUES = 100

#: A message that is ready: queue, rank, id.
_Ready = tuple[int, int, int]
#: All that is ready between two: queue, rank, first id, last id.
_Span = tuple[int, int, int, int]
#: A span that is held: number of the session, number of its receive, and the span.
_Hold = tuple[int, int, int, int, int, int]
#: What ``sql.FETCH`` returns.
_Fetched = tuple[int, str, bytes, str | None]


class SqliteConsumer:
    """See ``seams.Consumer``. A delivery's tag is (id of the message, number of the session)."""

    def __init__(
        self, store: Store, queues: Sequence[str], *, consumer_id: str, lease: float, number: int
    ) -> None:
        self._store = store
        self._database = store.database
        self._queues = tuple(queues)
        self._consumer_id = consumer_id
        self._lease = lease
        #: What the holds carry; a new one after the session was fenced.
        self._number = number
        self._bell = Bell(self._database.bells, CONSUMER)
        # What the topology of this version says of the queues' names.
        self._topology = -1
        self._names: dict[int, str] = {}
        self._ids = "[]"
        self._spans = ""
        #: The last receive found something, so the next looks with the writers' turn at once.
        self._flowing = True
        #: Counts attempts to receive.
        self._batch = 0
        #: What is held and was not read yet, with the names of its queues; and whether anything at
        #: all was revoked then.
        self._unread: list[tuple[_Hold, str]] = []
        self._revoking = False
        self._closed = False

    # --- receive

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = SYSTEM_CLOCK.monotonic() + timeout
        # What an earlier receive took and could not read comes first.
        deliveries = self._read() if self._unread else []
        if not deliveries and (self._flowing or self._is_due()):
            deliveries = self._reserve(limit)
        while not deliveries and not self._bell.woken():
            left = deadline - SYSTEM_CLOCK.monotonic()
            if left <= 0:
                break
            if self._sleep(left):
                deliveries = self._reserve(limit)
        self._flowing = bool(deliveries)
        return deliveries

    def _sleep(self, timeout: float) -> bool:
        """Wait to be rung, or until something is due; tell whether there may be something."""
        bell = self._bell
        bell.idle()
        try:
            ready, due = self._peek()
            if not ready:
                until_due = NAP if due is None else due - self._database.clock.now()
                bell.wait(min(timeout, NAP, until_due))
        finally:
            rung = bell.busy()
        if ready or rung or self._is_due():
            bell.found()
            return True
        return False

    def _is_due(self) -> bool:
        ready, due = self._peek()
        return ready or (due is not None and due <= self._database.clock.now())

    def _peek(self) -> tuple[bool, float | None]:
        with self._database.read() as connection:
            topology, ready, due = connection.execute(sql.PEEK, (self._ids,)).fetchone()
        return bool(ready) or topology != self._topology, due

    # --- hold

    def _reserve(self, limit: int) -> list[Delivery]:
        now = self._database.clock.now()
        self._database.write(lambda transaction: self._take(transaction, limit, now))
        return self._read() if self._unread else []

    def _take(self, transaction: Transaction, limit: int, now: float) -> None:
        """Hold what is ready."""
        begin = transaction.execute(sql.BEGIN_RECEIVE, (self._number,)).fetchone()
        topology, is_sorted, number, due, too_old, revoking = begin
        if number is None:
            until = now + self._lease
            self._number = holds.subscribe(
                transaction, self._consumer_id, self._queues, until=until
            )
        if topology != self._topology:
            self._resolve(transaction, topology)
        if not is_sorted:
            sort(transaction)
        if due is not None and due <= now:
            self._promote(transaction, now)
        if too_old is not None and too_old <= now:
            limits.end_the_old(transaction, self._names, now=now)
        self._revoking = bool(revoking)
        self._hold(transaction, limit)

    def _resolve(self, transaction: Transaction, topology: int) -> None:
        queues = self._store.routes(transaction, topology).queues
        found = [queues[name] for name in self._queues if name in queues]
        self._names = {row.id: row.name for row in found}
        self._ids = json.dumps(list(self._names))
        self._spans = sql.spans_of(len(self._names)) if len(self._names) <= MANY_QUEUES else ""
        self._topology = topology
        self._bell.wants(self._names)

    def _promote(self, transaction: Transaction, now: float) -> None:
        """Make delayed messages ready that are due, of whatever queue."""
        due = transaction.execute(sql.DUE, (now, PROMOTE_LIMIT)).fetchall()
        transaction.executemany(sql.DELETE_DELAYED, [row[:2] for row in due])
        transaction.executemany(sql.INSERT_READY, [(row[2], row[3], row[1]) for row in due])
        writing = self._store.begin(transaction)
        for _, number, queue, rank in due:
            transaction.note(queue)
            writing.limit(queue, [(number, rank)])

    def _hold(self, transaction: Transaction, limit: int) -> None:
        self._batch += 1
        for span in self._pick(transaction, limit):
            hold = (self._number, self._batch, *span)
            # Before the transaction's end: if nobody knows how that went, there is this to look up.
            self._unread.append((hold, self._names[span[0]]))
            transaction.execute(sql.HOLD, hold)
            transaction.execute(sql.UNREADY, span)

    def _pick(self, transaction: Transaction, limit: int) -> list[_Span]:
        """Return where the first messages in the order of delivery are."""
        if not self._names:
            return []
        if self._spans:
            return transaction.execute(self._spans, (limit, *self._names)).fetchall()
        picked: list[_Ready] = []
        for queue in self._names:
            picked += transaction.execute(sql.next_of(1), (limit, queue)).fetchall()
        return _spans(sorted(picked, key=lambda row: row[1:])[:limit])

    # --- read what is held

    def _read(self) -> list[Delivery]:
        """Return what is held and was not read yet."""
        ranked: list[tuple[int, list[Delivery]]] = []
        with self._database.read() as connection:
            for hold, queue in self._unread:
                rows = connection.execute(sql.FETCH, hold).fetchall()
                ranked.append((hold[3], _deliveries(rows, queue, hold[0])))
        deliveries = ranked[0][1] if len(ranked) == 1 else _in_order(ranked)
        if self._revoking and deliveries:
            deliveries = self._mark_revoked(deliveries)
        self._unread = []
        return deliveries

    def _mark_revoked(self, deliveries: list[Delivery]) -> list[Delivery]:
        ids = [
            (storable(each.message.id), storable(tree_of(each.message.headers)))
            for each in deliveries
        ]
        asked = json.dumps([each for both in ids for each in both])
        now = self._database.clock.now()
        with self._database.read() as connection:
            rows = connection.execute(sql.REVOKED, (asked, now)).fetchall()
        revoked = {row[0] for row in rows}
        return [
            each if revoked.isdisjoint(both) else replace(each, revoked=True)
            for each, both in zip(deliveries, ids, strict=True)
        ]

    # --- the end of holds

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            tags = [each.tag for each in deliveries]
            self._database.write(lambda transaction: holds.give_back(transaction, tags))

    def wake(self) -> None:
        self._bell.wake()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._bell.close()
        self._database.write(self._end)

    def _end(self, transaction: Transaction) -> None:
        writing = self._store.begin(transaction)
        holds.fence(
            transaction,
            self._number,
            routes=writing.routes,
            now=writing.now,
            losses=0,
            seen=0,
        )


def _spans(picked: list[_Ready]) -> list[_Span]:
    """Group what was picked: of each queue and rank it is all from the first id to the last."""
    spans: list[_Span] = []
    for (queue, rank), rows in groupby(sorted(picked), key=lambda row: row[:2]):
        ids = [row[2] for row in rows]
        spans.append((queue, rank, ids[0], ids[-1]))
    return spans


def _deliveries(rows: Sequence[_Fetched], queue: str, session: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    for number, data, body, past in rows:
        message, problem = unpack(data, body)
        delivery = Delivery(message, queue, (number, session), problem=problem)
        deliveries.append(delivery if past is None else _with_past(delivery, past))
    return deliveries


def _with_past(delivery: Delivery, past: str) -> Delivery:
    crashes, losses, suspect, redelivered, verdict = json.loads(past)
    return replace(
        delivery,
        crashes=crashes,
        losses=losses,
        suspect=suspect != 0,
        redelivered=redelivered != 0,
        verdict=verdict,
    )


def _in_order(ranked: Sequence[tuple[int, list[Delivery]]]) -> list[Delivery]:
    """Merge what was held of several queues and ranks."""
    pairs = [(rank, each) for rank, deliveries in ranked for each in deliveries]
    return [each for _, each in sorted(pairs, key=lambda pair: (pair[0], pair[1].tag))]
