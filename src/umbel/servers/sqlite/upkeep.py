"""Keeping the file small: what has expired is deleted in slices by whoever recovers.

Each call does a bounded piece of work, in transactions of a few milliseconds, and of all processes
one does it about once a second (``state.swept_at``), so that no publisher waits longer for its turn
than for any other write.
Expired results are not returned in any case; deleting them only makes room.
"""

from __future__ import annotations

import json

from umbel.clock import SYSTEM_CLOCK
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Database, Transaction
from umbel.servers.sqlite.declaring import delete_queue

#: Seconds between sweeps.
INTERVAL = 1.0
#: Rows looked at and deleted in one transaction.
SLICE = 500
#: Part of the time that sweeps may take, and seconds that one takes at least and at most.
SHARE, SHORTEST, LONGEST = 0.05, 0.05, 1.0
#: Free pages that are kept for new messages; and how many of the others one sweep gives back.
SPARE_PAGES, VACUUM_PAGES = 4096, 500


class Upkeep:
    """The sweeps of one process. Thread-safe: a lost race only sweeps twice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: The results up to here were seen; the oldest are looked at each time all the same.
        self._cursor = 0

    def sweep(self) -> None:
        """Delete a slice of what has expired, unless somebody did just now."""
        now = self._database.clock.now()
        with self._database.read() as connection:
            (swept_at,) = connection.execute("SELECT swept_at FROM state").fetchone()
        if swept_at <= now < swept_at + INTERVAL:
            return
        self._database.write(lambda transaction: self._sweep_small(transaction, now))
        budget = min(LONGEST, max(SHORTEST, (now - swept_at) * SHARE))
        self._sweep_results(now, SYSTEM_CLOCK.monotonic() + budget)
        self._vacuum()

    def _sweep_small(self, transaction: Transaction, now: float) -> None:
        transaction.execute("UPDATE state SET swept_at = ?", (now,))
        transaction.execute(sql.DELETE_REVOKED, (now,))
        transaction.execute(sql.DELETE_NODES, (now,))
        for statement in sql.DELETE_JOINS:
            transaction.execute(statement, (now,))
        transaction.execute(sql.DELETE_CHARGES, (now,))
        transaction.execute(sql.DELETE_CHARGED, (now,))
        _delete_queues(transaction, now)
        keep = self._database.options.dead_letters_expire
        if keep is not None:
            transaction.execute(sql.DELETE_DEAD, (now - keep, SLICE))

    def _sweep_results(self, now: float, deadline: float) -> None:
        """Delete expired results: the oldest until some are not, then a slice further on.

        Most live equally long, so the oldest expire first. What lives longer is passed over by the
        cursor, which goes round.
        """
        while self._sweep_slice(0, now)[1] and SYSTEM_CLOCK.monotonic() < deadline:
            pass
        self._cursor, _ = self._sweep_slice(self._cursor, now)

    def _sweep_slice(self, behind: int, now: float) -> tuple[int, int]:
        """Return where the slice ended (0 = at the end of all) and how many had expired."""
        with self._database.read() as connection:
            rows = connection.execute(sql.RESULTS_BEHIND, (behind, SLICE, now)).fetchall()
        expired = [seq for seq, is_over in rows if is_over]
        if expired:
            seqs = (json.dumps(expired),)
            self._database.write(lambda transaction: transaction.execute(sql.DELETE_RESULTS, seqs))
        return (rows[-1][0] if len(rows) == SLICE else 0), len(expired)

    def _vacuum(self) -> None:
        with self._database.read() as connection:
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if free > SPARE_PAGES and free > pages // 2:
            self._database.write(_give_pages_back)


def _give_pages_back(transaction: Transaction) -> None:
    for _ in range(VACUUM_PAGES):
        # Python's module takes one step only, and a step is one page.
        transaction.execute("PRAGMA incremental_vacuum(1)")


def _delete_queues(transaction: Transaction, now: float) -> None:
    for queue, used_at, expires in transaction.execute(sql.UNUSED_QUEUES).fetchall():
        if used_at + expires <= now:
            delete_queue(transaction, queue)
