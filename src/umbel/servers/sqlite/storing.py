"""Writing messages and results inside a transaction: shared by publish, commit and the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import MessageTooLarge, PublishError, Unroutable
from umbel.message import Message, ResultRecord
from umbel.servers.sqlite import limits
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.bells import SLOTS, hash_of
from umbel.servers.sqlite.connection import Database, Transaction
from umbel.servers.sqlite.packing import PACKING_ERRORS, pack, storable
from umbel.servers.sqlite.routes import NO_ROUTES, QueueRow, Routes, read_routes
from umbel.states import SUCCESS

#: Seconds that idle consumers and watches sleep at most. Delayed messages that are due sooner ring
#: every idle consumer of their queue, so that it sleeps no longer than until then.
NAP = 1.0

#: Messages that one process appends to the inbox before it sorts it, so that who receives need not
#: sort many.
INBOX = 256

#: A message, its ``data``, and why it cannot be stored ("" = it can).
Packed = tuple[Message, str, str]
#: A message with its ``data``, and where it goes.
Routed = tuple[Message, str, tuple[QueueRow, ...]]
#: A row of messages: id, queue, rank, data, body.
_MessageRow = tuple[int, int | None, int | None, str, bytes]
#: A row of results: seq, prefix, task_id, state, expires_at, meta.
_ResultRow = tuple[int, int, str, str, float | None, bytes]


class Store:
    """What writes of one process share: the database, and the routes as last read. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database
        #: Messages appended to the inbox by this process since it sorted it.
        self.unsorted = 0
        self._routes = NO_ROUTES

    def pack(self, messages: Sequence[Message]) -> list[Packed]:
        """Turn messages into rows: before the transaction, as others wait for its end."""
        largest = self.database.options.max_message_size
        return [_pack(message, largest) for message in messages]

    def begin(self, transaction: Transaction) -> Writing:
        """Look at the file's state, at the begin of a transaction that writes."""
        version, highest, sorted_id = transaction.execute(sql.STATE).fetchone()
        routes = self.routes(transaction, version)
        highest = max(highest or 0, sorted_id)
        return Writing(self, transaction, routes, highest, now=self.database.clock.now())

    def routes(self, transaction: Transaction, version: int) -> Routes:
        """Return the routes of this version of the topology."""
        routes = self._routes
        if routes.version != version:
            routes = self._routes = read_routes(transaction)
        return routes


class Writing:
    """One transaction that writes: the routes it sees, and the next free numbers. One thread's."""

    __slots__ = ("_next_id", "_rooms", "_store", "now", "routes", "transaction")

    def __init__(
        self,
        store: Store,
        transaction: Transaction,
        routes: Routes,
        highest_id: int,
        *,
        now: float,
    ) -> None:
        self._store = store
        self.transaction = transaction
        self.routes = routes
        self.now = now
        self._next_id = _above(highest_id)
        self._rooms: dict[int, int] | None = None

    def take_id(self) -> int:
        """Return an id behind all others."""
        number = self._next_id
        self._next_id = number + 1
        return number

    # --- messages

    def route(self, packed: Packed) -> Routed | str:
        """Return a message with the queues it goes to, or why it is refused."""
        message, data, problem = packed
        if problem:
            return problem
        targets = self.routes.targets(message)
        for queue in targets:
            if queue.refuses and not self._has_room(queue):
                return f"queue {queue.name!r} is full (max_length {queue.max_length})"
        return (message, data, targets) if targets else self.routes.lost(message)

    def refusal(self, refused: Sequence[tuple[Message, str]]) -> PublishError:
        """Return the error of messages that cannot be stored, each with the reason."""
        database, kind = self._store.database, PublishError
        largest = database.options.max_message_size
        if not any(self.routes.targets(message) for message, _ in refused):
            kind = Unroutable
        elif all(len(message.body) > largest for message, _ in refused):
            kind = MessageTooLarge
        pairs = [(message.id, reason) for message, reason in refused]
        return kind(f"{database.path}: not sent", pairs)

    def _has_room(self, queue: QueueRow) -> bool:
        if queue.max_length is None:
            return True
        rooms = self._rooms = self._rooms or {}
        if queue.id not in rooms:
            rooms[queue.id] = limits.room(self.transaction, queue)
        rooms[queue.id] -= 1
        return rooms[queue.id] >= 0

    def store(self, routed: Sequence[Routed]) -> None:
        """Insert messages, in order, and note whom to wake."""
        rows: list[_MessageRow] = []
        delayed: list[tuple[float, int, int, int]] = []
        limited: dict[int, list[tuple[int, int]]] = {}
        number, now, transaction = self._next_id, self.now, self.transaction
        for message, data, targets in routed:
            rank = rank_of(message)
            for queue in targets:
                if message.not_before > now:
                    delayed.append((message.not_before, number, queue.id, rank))
                    rows.append((number, None, None, data, message.body))
                else:
                    transaction.note(queue.id)
                    rows.append((number, queue.id, rank, data, message.body))
                    if queue.limited:
                        limited.setdefault(queue.id, []).append((number, rank))
                number += 1
        self._next_id = number
        transaction.insert("messages", rows)
        self._store.unsorted += len(rows)
        if delayed:
            self._delay(delayed)
        if limited or self._store.unsorted >= INBOX:
            self.sort()
        for queue_id, ids in limited.items():
            self.limit(queue_id, ids)

    def sort(self) -> None:
        """Make all that is in the inbox ready."""
        sort(self.transaction)
        self._store.unsorted = 0

    def _delay(self, delayed: Sequence[tuple[float, int, int, int]]) -> None:
        self.transaction.executemany(sql.INSERT_DELAYED, delayed)
        for due, _, queue, _ in delayed:
            if due < self.now + NAP:
                self.transaction.note(queue, SLOTS)

    def limit(self, queue: int, ids: Sequence[tuple[int, int]]) -> None:
        """Keep a queue in which these (id, rank) became ready to its limits."""
        row = self.routes.by_id[queue]
        limits.watch_age(self.transaction, row, ids, now=self.now)
        limits.trim(self.transaction, row, now=self.now)

    # --- results

    def store_results(self, records: Sequence[ResultRecord]) -> None:
        """Insert or replace results, in order; what is SUCCESS stays. Notes whom to wake."""
        store_results(self.transaction, records, now=self.now)


def store_results(transaction: Transaction, records: Sequence[ResultRecord], *, now: float) -> None:
    """Insert or replace results, in order; what is SUCCESS stays. Notes whom to wake."""
    ids = [storable(record.task_id) for record in records]
    prefixes = [*map(prefix_of, ids)]
    stored = transaction.execute(sql.STORED, (json.dumps(prefixes),)).fetchall()
    seq = _above(transaction.execute(sql.NEWEST_RESULT).fetchone()[0])
    rows: list[_ResultRow] = [
        (
            number,
            prefix,
            task_id,
            record.state,
            None if record.expires_in is None else now + record.expires_in,
            record.meta,
        )
        for number, prefix, task_id, record in zip(count(seq), prefixes, ids, records)
    ]
    if stored or len(set(ids)) < len(ids):
        rows, replaced = _newest(rows, stored)
        transaction.execute(sql.DELETE_RESULTS, (json.dumps(replaced),))
    transaction.insert("results", rows)
    transaction.stored += [row[2] for row in rows]


def _newest(
    rows: Sequence[_ResultRow], stored: Sequence[tuple[int, str, str]]
) -> tuple[list[_ResultRow], list[int]]:
    """Return the rows that are to be inserted, and the seqs of stored ones that they replace."""
    final = {task_id for _, task_id, state in stored if state == SUCCESS}
    newest: dict[str, _ResultRow] = {}
    for row in rows:
        _, _, task_id, state, _, _ = row
        if task_id not in final:
            newest.pop(task_id, None)  # so that the order stays that of the numbers
            newest[task_id] = row
            if state == SUCCESS:
                final.add(task_id)
    return [*newest.values()], [seq for seq, task_id, _ in stored if task_id in newest]


def _above(highest: int | None) -> int:
    """Return a number that was never used: the time, or what follows the highest there is."""
    # Not the injected clock: these only must not repeat.
    return max(int(SYSTEM_CLOCK.now() * 1e6), (highest or 0) + 1)


def _pack(message: Message, largest: int) -> Packed:
    if len(message.body) > largest:
        size = len(message.body)
        return message, "", f"its body has {size} bytes, max_message_size is {largest}"
    try:
        return message, pack(message), ""
    except PACKING_ERRORS as error:
        return message, "", f"its headers are no JSON: {error}"


def sort(transaction: Transaction) -> None:
    """Make all that is in the inbox ready."""
    transaction.execute(sql.SORT)
    transaction.execute(sql.SORTED)


def rank_of(message: Message) -> int:
    """Return where a priority stands in the order of delivery: 9 comes first, as 0."""
    priority = message.priority
    return 9 - min(9, max(0, priority)) if priority else 9


def prefix_of(task_id: str) -> int:
    """Return what a result is found by: the first 64 bits of a UUID, or a hash of another text.

    The id is as ``storable`` has it.
    """
    try:
        bits = int(task_id[:18].replace("-", ""), 16)
    except ValueError:
        return hash_of(task_id)
    return (bits & 0xFFFFFFFFFFFFFFFF) - 0x8000000000000000
