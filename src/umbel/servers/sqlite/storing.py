"""Writing messages and results inside a transaction: shared by publish, commit and the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from zlib import crc32

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Message, ResultRecord
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Database, Transaction
from umbel.servers.sqlite.packing import PACKING_ERRORS, pack
from umbel.servers.sqlite.routes import NO_ROUTES, QueueRow, Routes, read_routes
from umbel.states import SUCCESS

#: Delayed messages that are due within so many seconds wake every idle consumer of their queue, so
#: that it sleeps no longer than until then. It is the longest that idle consumers sleep.
SOON = 1.0

#: A message packed, and where it goes.
Packed = tuple[Message, str, tuple[QueueRow, ...]]


class Writing:
    """One transaction's view of the file: routes, and the next free ids. Used by one thread."""

    __slots__ = ("_next_id", "_next_seq", "now", "routes", "transaction")

    def __init__(self, transaction: Transaction, routes: Routes, *, now: float) -> None:
        self.transaction = transaction
        self.now = now
        version, highest_id, highest_seq = transaction.execute(sql.STATE).fetchone()
        self.routes = routes if routes.version == version else read_routes(transaction)
        # Not the injected clock: these are ids that only must not repeat.
        floor = int(SYSTEM_CLOCK.now() * 1e6)
        self._next_id = max(floor, (highest_id or 0) + 1)
        self._next_seq = max(floor, (highest_seq or 0) + 1)

    def take_id(self) -> int:
        """Return an id behind all others."""
        number = self._next_id
        self._next_id = number + 1
        return number

    def resolve(self, message: Message) -> Packed | str:
        """Return a message packed and routed, or why it is refused."""
        targets = self.routes.targets(message)
        if not targets:
            return self.routes.lost(message)
        try:
            return message, pack(message), targets
        except PACKING_ERRORS as error:
            return f"its headers are no JSON: {error}"

    def store(self, packed: Sequence[Packed]) -> None:
        """Insert messages, in order, and note whom to wake."""
        rows: list[tuple[int, str, bytes]] = []
        runs: list[list[int]] = []
        delayed: list[tuple[float, int, int, int]] = []
        run = [-1, -1, -1, -1]
        number = self._next_id
        now = self.now
        for message, data, targets in packed:
            priority = message.priority
            rank = 9 if not priority else 9 - min(9, max(0, priority))
            for queue in targets:
                rows.append((number, data, message.body))
                if message.not_before > now:
                    delayed.append((message.not_before, number, queue.id, rank))
                elif run[0] == queue.id and run[1] == rank and run[3] == number - 1:
                    run[3] = number
                else:
                    run = [queue.id, rank, number, number]
                    runs.append(run)
                number += 1
        self._next_id = number
        self._insert(rows, runs, delayed)

    def _insert(
        self,
        rows: list[tuple[int, str, bytes]],
        runs: list[list[int]],
        delayed: list[tuple[float, int, int, int]],
    ) -> None:
        transaction = self.transaction
        if len(rows) == 1:
            transaction.execute(sql.INSERT_MESSAGE, rows[0])
        else:
            transaction.executemany(sql.INSERT_MESSAGE, rows)
        queued = transaction.queued
        for run in runs:
            transaction.execute(sql.INSERT_READY, run)
            queued[run[0]] = queued.get(run[0], 0) + run[3] - run[2] + 1
        if delayed:
            transaction.executemany(sql.INSERT_DELAYED, delayed)
            for due, _, queue, _ in delayed:
                if due < self.now + SOON:
                    queued[queue] = -1

    def store_results(self, records: Sequence[ResultRecord]) -> None:
        """Insert or replace results, in order; what is SUCCESS stays. Notes whom to wake."""
        transaction = self.transaction
        hashes = [hash_of(record.task_id) for record in records]
        stored = transaction.execute(sql.STORED, (json.dumps(hashes),)).fetchall()
        seqs: dict[str, int] = {}
        final: set[str] = set()
        for seq, task_id, state in stored:
            seqs[task_id] = seq
            if state == SUCCESS:
                final.add(task_id)
        rows: dict[str, tuple[int, int, str, str, float | None, bytes]] = {}
        replaced: list[int] = []
        seq = self._next_seq
        for record, number in zip(records, hashes, strict=True):
            task_id = record.task_id
            if task_id in final:
                continue
            if record.state == SUCCESS:
                final.add(task_id)
            if task_id in seqs:
                replaced.append(seqs.pop(task_id))
            expires_at = None if record.expires_in is None else self.now + record.expires_in
            rows.pop(task_id, None)
            rows[task_id] = (seq, number, task_id, record.state, expires_at, record.meta)
            transaction.stored.append(number)
            seq += 1
        self._next_seq = seq
        if replaced:
            transaction.execute(sql.DELETE_RESULTS, (json.dumps(replaced),))
        transaction.executemany(sql.INSERT_RESULT, rows.values())


class Writer:
    """Begins ``Writing``s on one database and keeps the routes between them. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.routes = NO_ROUTES

    def begin(self, transaction: Transaction) -> Writing:
        """Look at the file's state, at the begin of a transaction."""
        writing = Writing(transaction, self.routes, now=self.database.clock.now())
        self.routes = writing.routes
        return writing

    def refresh(self, connection_version: int, transaction: Transaction) -> Routes:
        """Return the routes of this version."""
        if self.routes.version != connection_version:
            self.routes = read_routes(transaction)
        return self.routes


def hash_of(task_id: str) -> int:
    """Return 32 bits, signed, of an id: what results are found and watches are rung by."""
    return crc32(task_id.encode("utf-8", "surrogatepass")) - 0x80000000
