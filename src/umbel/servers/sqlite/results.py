"""Results by task id, and watches that are told of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence

from umbel.clock import SYSTEM_CLOCK
from umbel.message import ResultRecord
from umbel.servers.sqlite import bells
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Database
from umbel.servers.sqlite.storing import SOON, Writer, hash_of


class SqliteResults:
    """See ``seams.ResultStore``."""

    reply_to = ""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def put(self, records: Sequence[ResultRecord]) -> None:
        if not records:
            return
        with self._database.write() as transaction:
            self._writer.begin(transaction).store_results(records)

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        return {task_id: meta for _, task_id, meta in find(self._database, task_ids)}

    def watch(self) -> SqliteWatch:
        return SqliteWatch(self._database)

    def forget(self, task_ids: Sequence[str]) -> None:
        wanted = set(task_ids)
        hashes = json.dumps([hash_of(task_id) for task_id in wanted])
        with self._database.write() as transaction:
            rows = transaction.execute(sql.STORED, (hashes,)).fetchall()
            seqs = [seq for seq, task_id, _ in rows if task_id in wanted]
            transaction.execute(sql.DELETE_RESULTS, (json.dumps(seqs),))

    def close(self) -> None:
        self._database.close()


def find(database: Database, task_ids: Iterable[str]) -> list[tuple[int, str, bytes]]:
    """Return (seq, id, meta) of the results that exist."""
    wanted = set(task_ids)
    if not wanted:
        return []
    hashes = json.dumps([hash_of(task_id) for task_id in wanted])
    with database.read() as connection:
        rows: list[tuple[int, str, bytes]] = connection.execute(
            sql.GET_RESULTS, (hashes, database.clock.now())
        ).fetchall()
    return [row for row in rows if row[1] in wanted]


class SqliteWatch:
    """See ``seams.Watch``.

    ``_seen`` is the seq up to which the table was read; ids added since are looked up one by one,
    all others are found by reading on from there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bell = database.bell(bells.WATCH)
        self._changing = threading.Lock()
        #: Followed id -> seq of the meta that was reported last.
        self._followed: dict[str, int] = {}
        self._added: list[str] = []
        self._closed = False
        self._seen = 0
        with database.read() as connection:
            (highest,) = connection.execute("SELECT max(seq) FROM results").fetchone()
            self._seen = highest or 0

    def add(self, task_ids: Iterable[str]) -> None:
        with self._changing:
            new = [task_id for task_id in task_ids if task_id not in self._followed]
            self._followed.update(dict.fromkeys(new, 0))
            self._added += new
            self._bell.wants(hash_of(task_id) for task_id in self._followed)
        self._bell.nudge()

    def discard(self, task_ids: Iterable[str]) -> None:
        with self._changing:
            for task_id in task_ids:
                self._followed.pop(task_id, None)

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        deadline = SYSTEM_CLOCK.monotonic() + timeout
        found = self._look()
        while not found and not self._bell.woken():
            left = deadline - SYSTEM_CLOCK.monotonic()
            if left <= 0:
                break
            self._bell.idle()
            found = self._look()
            if not found:
                self._bell.wait(min(left, SOON))
            self._bell.busy()
            found = found or self._look()
        return found

    def _look(self) -> list[tuple[str, bytes]]:
        with self._changing:
            added, self._added = self._added, []
        rows = find(self._database, added)
        with self._database.read() as connection:
            since = connection.execute(sql.RESULTS_SINCE, (self._seen,)).fetchall()
            if since:
                self._seen = since[-1][0]
                seqs = [seq for seq, task_id in since if task_id in self._followed]
                rows += connection.execute(sql.METAS, (json.dumps(seqs),)).fetchall()
        return self._news(rows)

    def _news(self, rows: list[tuple[int, str, bytes]]) -> list[tuple[str, bytes]]:
        news = []
        with self._changing:
            for seq, task_id, meta in sorted(rows):
                if self._followed.get(task_id, seq) < seq:
                    self._followed[task_id] = seq
                    news.append((task_id, meta))
        return news

    def wake(self) -> None:
        self._bell.wake()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._bell.close()
