"""Timetables: entries, how far they have come, and the transaction that sends what is due."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.packing import storable
from umbel.servers.sqlite.storing import Packed, Routed, Store, Writing
from umbel.servers.timetable import Progress, Tick, TickReport


class SqliteTimetable:
    """See ``servers.timetable.Timetable``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def entries(self, table: str) -> Mapping[str, str]:
        with self._database.read() as connection:
            return dict(connection.execute(sql.ENTRIES, (storable(table),)).fetchall())

    def put(self, table: str, name: str, entry: str | None, *, before: str | None) -> bool:
        key = (storable(table), storable(name))

        def put(transaction: Transaction) -> bool:
            row = transaction.execute(sql.ENTRY, key).fetchone()
            if (row and row[0]) != before:
                return False
            if entry is not None:
                transaction.execute(sql.PUT_ENTRY, (*key, storable(entry)))
            else:
                transaction.execute(sql.DELETE_ENTRY, key)
                transaction.execute(sql.DELETE_PROGRESS, key)
            transaction.execute(sql.REVISE, key[:1])
            return True

        return self._database.write(put)

    def revision(self, table: str) -> int:
        with self._database.read() as connection:
            row = connection.execute(sql.REVISION, (storable(table),)).fetchone()
        return row[0] if row else 0

    def progress(self, table: str, names: Sequence[str] | None = None) -> Mapping[str, Progress]:
        with self._database.read() as connection:
            wanted = None if names is None else json.dumps([*map(storable, names)])
            rows = connection.execute(sql.PROGRESS, (storable(table), wanted)).fetchall()
        return {name: Progress(due_at, record) for name, due_at, record in rows}

    def leader(self, table: str) -> str | None:
        with self._database.read() as connection:
            row = connection.execute(
                sql.LEASE_HOLDER, (storable(table), self._database.clock.now())
            ).fetchone()
        return row[0] if row else None

    def advance(self, table: str, ticks: Sequence[Tick], *, token: int) -> TickReport:
        # Packed before the transaction, as others wait for its end.
        packed = [
            None if tick.message is None else self._store.pack([tick.message])[0] for tick in ticks
        ]
        name = storable(table)

        def advance(transaction: Transaction) -> TickReport:
            newest = transaction.execute(sql.NEWEST_TOKEN, (name,)).fetchone()
            if newest is None or newest[0] != token:
                return TickReport(leads=False)
            return _Advance(self._store.begin(transaction), name).perform(ticks, packed)

        return self._database.write(advance)


class _Advance:
    """Ticks of one transaction."""

    def __init__(self, writing: Writing, table: str) -> None:
        self._writing = writing
        self._table = table

    def perform(self, ticks: Sequence[Tick], packed: Sequence[Packed | None]) -> TickReport:
        passed: list[Tick] = []
        refused: list[tuple[Tick, str]] = []
        routed: list[Routed] = []
        rows: list[tuple[str, str, float, str]] = []
        due = self._due([tick.entry for tick in ticks])
        for tick, message in zip(ticks, packed, strict=True):
            entry = storable(tick.entry)
            found = None if message is None else self._writing.route(message)
            if due.get(entry) != tick.after:
                passed.append(tick)
            elif isinstance(found, str):
                refused.append((tick, found))
            else:
                routed += [] if found is None else [found]
                rows.append((self._table, entry, tick.due_at, storable(tick.record)))
                due[entry] = tick.due_at
        if routed:
            self._writing.store(routed)
        self._writing.transaction.executemany(sql.MOVE, rows)
        return TickReport(passed=tuple(passed), refused=tuple(refused))

    def _due(self, names: Sequence[str]) -> dict[str, float]:
        """Return how far these have come."""
        wanted = json.dumps([*map(storable, names)])
        execute = self._writing.transaction.execute
        rows = execute(sql.PROGRESS, (self._table, wanted)).fetchall()
        return {name: due_at for name, due_at, _ in rows}
