"""Dead letters, revocations, node records and leases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from umbel.serializers import json_text
from umbel.servers.seams import DeadLetter
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.packing import storable, unpack_any
from umbel.servers.sqlite.storing import Store


class SqliteLedger:
    """See ``seams.Ledger``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def dead_letters(self, *, limit: int = 100, after: str = "") -> Sequence[DeadLetter]:
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT key, data, body, queue, reason, died_at, crashes FROM dead"
                " WHERE key > ? ORDER BY key LIMIT ?",
                (_number(after), limit),
            ).fetchall()
        return [
            DeadLetter(str(key), unpack_any(data, body)[0], queue, reason, died_at, crashes)
            for key, data, body, queue, reason, died_at, crashes in rows
        ]

    def requeue(self, keys: Sequence[str]) -> int:
        requeued = 0
        with self._database.write() as transaction:
            writing = self._store.begin(transaction)
            for key in keys:
                row = transaction.execute(
                    "SELECT data, body, queue FROM dead WHERE key = ?", (_number(key),)
                ).fetchone()
                queue = None if row is None else writing.routes.queues.get(row[2])
                if row is None or queue is None:
                    continue
                message, _ = unpack_any(row[0], row[1])
                writing.store([(message, row[0], (queue,))])
                transaction.execute("DELETE FROM dead WHERE key = ?", (_number(key),))
                requeued += 1
        return requeued

    def drop(self, keys: Sequence[str]) -> int:
        numbers = json.dumps([_number(key) for key in keys])
        with self._database.write() as transaction:
            cursor = transaction.execute(
                "DELETE FROM dead WHERE key IN (SELECT value FROM json_each(?))", (numbers,)
            )
            return cursor.rowcount

    def revoke(self, task_ids: Sequence[str], *, expires_in: float) -> None:
        until = self._database.clock.now() + expires_in
        with self._database.write() as transaction:
            transaction.executemany(
                "INSERT INTO revoked VALUES (?1, ?2) ON CONFLICT (task_id)"
                " DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
                [(storable(task_id), until) for task_id in task_ids],
            )

    def revoked(self, task_ids: Sequence[str]) -> frozenset[str]:
        wanted = {storable(task_id): task_id for task_id in task_ids}
        with self._database.read() as connection:
            rows = connection.execute(
                sql.REVOKED, (json.dumps(list(wanted)), self._database.clock.now())
            ).fetchall()
        return frozenset(wanted[task_id] for (task_id,) in rows)

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        until = self._database.clock.now() + expires_in
        with self._database.write() as transaction:
            transaction.execute(
                "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)",
                (node, json_text(dict(record)), until),
            )

    def nodes(self) -> dict[str, dict[str, Any]]:
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT name, record FROM nodes WHERE expires_at > ? ORDER BY name",
                (self._database.clock.now(),),
            ).fetchall()
        return {name: json.loads(record) for name, record in rows}

    def retire(self, node: str) -> None:
        with self._database.write() as transaction:
            transaction.execute("DELETE FROM nodes WHERE name = ?", (node,))

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        now = self._database.clock.now()
        with self._database.write() as transaction:
            row = transaction.execute(sql.ACQUIRE, (name, holder, now, now + lease)).fetchone()
        return None if row is None else int(row[0])

    def release(self, name: str, holder: str) -> None:
        with self._database.write() as transaction:
            transaction.execute(
                "UPDATE leases SET holder = '', expires_at = 0 WHERE name = ? AND holder = ?",
                (name, holder),
            )


def _number(key: str) -> int:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 19 else 0
