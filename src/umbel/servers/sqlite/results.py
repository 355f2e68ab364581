"""Results by task id, and watches that are told of them as they are stored.

A watch reads on from where it was (``seq`` grows with every storing), so that following 100,000 ids
is one range of the table and not 100,000 look-ups; one that follows few ids looks these up, so that
it need not read what other programs get. Ids that were added since are looked up in any case.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable, Sequence

from umbel.clock import SYSTEM_CLOCK
from umbel.message import ResultRecord
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.bells import WANTS, WATCH, Bell, hash_of
from umbel.servers.sqlite.connection import Database, Transaction
from umbel.servers.sqlite.packing import storable
from umbel.servers.sqlite.storing import NAP, Store, prefix_of

#: A watch of at most so many ids looks each of them up.
FEW = 32

#: What the id of a saved group ends in: the other ids are tasks.
GROUP = "/group"

#: A result as it is read: seq, task_id, meta.
_Row = tuple[int, str, bytes]


class SqliteResults:
    """See ``seams.ResultStore``."""

    reply_to = ""
    caveat = ""
    shared = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def put(self, records: Sequence[ResultRecord]) -> None:
        if records:
            self._database.write(
                lambda transaction: self._store.begin(transaction).store_results(records)
            )

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        wanted = {storable(task_id): task_id for task_id in task_ids}
        return {wanted[task_id]: meta for _, task_id, meta in find(self._database, wanted)}

    def watch(self) -> SqliteWatch:
        return SqliteWatch(self._database)

    def forget(self, task_ids: Sequence[str]) -> None:
        wanted = set(map(storable, task_ids))
        prefixes = json.dumps(list(map(prefix_of, wanted)))

        def delete(transaction: Transaction) -> None:
            rows = transaction.execute(sql.STORED, (prefixes,)).fetchall()
            seqs = [seq for seq, task_id, _ in rows if task_id in wanted]
            transaction.execute(sql.DELETE_RESULTS, (json.dumps(seqs),))

        self._database.write(delete)

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:
        self.put([ResultRecord(group_id + GROUP, data, "", expires_in)])

    def saved_group(self, group_id: str) -> bytes | None:
        return self.get([group_id + GROUP]).get(group_id + GROUP)

    def forget_group(self, group_id: str) -> None:
        self.forget([group_id + GROUP])

    def close(self) -> None:
        self._database.close()


def find(database: Database, task_ids: Iterable[str]) -> list[_Row]:
    """Return the results that exist and have not expired. Ids as ``storable`` has them."""
    wanted = set(task_ids)
    if not wanted:
        return []
    prefixes = json.dumps([prefix_of(task_id) for task_id in wanted])
    with database.read() as connection:
        rows: list[_Row] = connection.execute(
            sql.GET_RESULTS, (prefixes, database.clock.now())
        ).fetchall()
    return [row for row in rows if row[1] in wanted]


class SqliteWatch:
    """See ``seams.Watch``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bell = Bell(database.bells, WATCH)
        #: Guards the two below, which any thread changes.
        self._changing = threading.Lock()
        #: Followed id, as the table has it -> seq of the meta that was reported last.
        self._followed: dict[str, int] = {}
        #: Ids that the table has in another form, by that.
        self._odd: dict[str, str] = {}
        #: Ids to be looked up.
        self._added: list[str] = []
        with database.read() as connection:
            #: Up to this seq the table was read.
            self._seen: int = connection.execute(sql.NEWEST_RESULT).fetchone()[0] or 0

    def add(self, task_ids: Iterable[str]) -> None:
        with self._changing:
            new = [each for each in map(self._as_stored, task_ids) if each not in self._followed]
            self._followed.update(dict.fromkeys(new, 0))
            self._added += new
            self._want()
        self._bell.nudge()

    def discard(self, task_ids: Iterable[str]) -> None:
        with self._changing:
            for task_id in task_ids:
                self._followed.pop(storable(task_id), None)
            self._want()

    def _as_stored(self, task_id: str) -> str:
        stored = storable(task_id)
        if stored != task_id:
            self._odd[stored] = task_id
        return stored

    def _want(self) -> None:
        some = itertools.islice(self._followed, WANTS + 1)
        self._bell.wants(hash_of(task_id) for task_id in some)

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        deadline = SYSTEM_CLOCK.monotonic() + timeout
        news = self._look()
        while not news and not self._bell.woken():
            left = deadline - SYSTEM_CLOCK.monotonic()
            if left <= 0:
                break
            news = self._sleep(left)
        return news

    def _sleep(self, timeout: float) -> list[tuple[str, bytes]]:
        """Wait to be rung, and look."""
        bell = self._bell
        bell.idle()
        try:
            news = self._look()
            if not news:
                bell.wait(min(timeout, NAP))
        finally:
            bell.busy()
        news = news or self._look()
        if news:
            bell.found()
        return news

    def _look(self) -> list[tuple[str, bytes]]:
        with self._changing:
            added, self._added = self._added, []
            few = list(self._followed) if len(self._followed) <= FEW else None
        newest = self._newest()
        if newest < self._seen or (few is not None and newest > self._seen):
            # Few ids; or the newest results were deleted, and after that the clock may have gone
            # back, so that newer ones may have lower numbers.
            added = few if few is not None else list(self._followed)
        rows = find(self._database, added)
        if few is None and newest > self._seen:
            rows += self._read_on()
        self._seen = newest
        return self._news(rows)

    def _newest(self) -> int:
        with self._database.read() as connection:
            return connection.execute(sql.NEWEST_RESULT).fetchone()[0] or 0

    def _read_on(self) -> list[_Row]:
        with self._database.read() as connection:
            since = connection.execute(sql.RESULTS_SINCE, (self._seen,)).fetchall()
            seqs = [seq for seq, task_id in since if task_id in self._followed]
            rows: list[_Row] = connection.execute(sql.METAS, (json.dumps(seqs),)).fetchall()
        return rows

    def _news(self, rows: list[_Row]) -> list[tuple[str, bytes]]:
        news: list[tuple[str, bytes]] = []
        with self._changing:
            for seq, task_id, meta in sorted(rows):
                if self._followed.get(task_id, seq) < seq:
                    self._followed[task_id] = seq
                    news.append((self._odd.get(task_id, task_id), meta))
        return news

    def wake(self) -> None:
        self._bell.wake()

    def close(self) -> None:
        self._bell.close()
