"""Dead letters, revocations, node records and leases."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from umbel.serializers import json_text
from umbel.servers.seams import Charge, DeadConsumer, DeadLetter, Revocation
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.packing import pack, storable, unpack
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
            DeadLetter(str(key), unpack(data, body)[0], queue, reason, died_at, crashes)
            for key, data, body, queue, reason, died_at, crashes in rows
        ]

    def requeue(self, keys: Sequence[str]) -> int:
        return self._database.write(
            lambda transaction: sum(self._requeue(transaction, _number(key)) for key in keys)
        )

    def _requeue(self, transaction: Transaction, key: int) -> int:
        """Send one letter to its queue, if both exist; return how many that were."""
        writing = self._store.begin(transaction)
        row = transaction.execute(
            "SELECT data, body, queue FROM dead WHERE key = ?", (key,)
        ).fetchone()
        if row is None or row[2] not in writing.routes.queues:
            return 0
        data, body, queue = row
        message, _ = unpack(data, body)
        writing.store([(message, data, (writing.routes.queues[queue],))])
        transaction.execute("DELETE FROM dead WHERE key = ?", (key,))
        return 1

    def drop(self, keys: Sequence[str]) -> int:
        numbers = json.dumps([_number(key) for key in keys])
        return self._execute(
            "DELETE FROM dead WHERE key IN (SELECT value FROM json_each(?))", (numbers,)
        ).rowcount

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        rows = [self._row(each) for each in letters]
        self._database.write(lambda transaction: transaction.executemany(sql.BURY_FOREIGN, rows))

    def _row(self, letter: DeadLetter) -> tuple[str, bytes, str, str, float, int]:
        message, queue, reason = letter.message, storable(letter.queue), storable(letter.reason)
        return (
            pack(message),
            message.body,
            queue,
            reason,
            self._database.clock.now(),
            letter.crashes,
        )

    def charge(self, dead: Sequence[DeadConsumer], *, expires_in: float) -> None:
        until = self._database.clock.now() + expires_in

        def charge(transaction: Transaction) -> None:
            for each in dead:
                row = (storable(each.consumer_id), until)
                if transaction.execute(sql.CHARGED, row).fetchone() is not None:
                    _charge(transaction, each, until)

        self._database.write(charge)

    def charges(self, message_ids: Sequence[str]) -> dict[str, Charge]:
        wanted = {storable(message_id): message_id for message_id in message_ids}
        with self._database.read() as connection:
            rows = connection.execute(
                sql.CHARGES, (json.dumps(list(wanted)), self._database.clock.now())
            ).fetchall()
        return {
            wanted[message_id]: Charge(crashes, bool(suspect), verdict)
            for message_id, crashes, suspect, verdict in rows
        }

    def absolve(self, message_ids: Sequence[str]) -> None:
        self._execute(sql.ABSOLVE, (json.dumps([*map(storable, message_ids)]),))

    def revoke(
        self, task_ids: Sequence[str], *, expires_in: float, by: str = "", signal: str = ""
    ) -> None:
        now = self._database.clock.now()
        said = (now + expires_in, storable(by), now, signal)
        rows = [(storable(task_id), *said) for task_id in task_ids]
        self._database.write(lambda transaction: transaction.executemany(sql.REVOKE, rows))

    def revoked(self, task_ids: Sequence[str]) -> dict[str, Revocation]:
        wanted = {storable(task_id): task_id for task_id in task_ids}
        with self._database.read() as connection:
            rows = connection.execute(
                sql.REVOKED, (json.dumps(list(wanted)), self._database.clock.now())
            ).fetchall()
        return {wanted[task_id]: Revocation(*said) for task_id, *said in rows}

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        until = self._database.clock.now() + expires_in
        row = (node, json_text(dict(record)), until)
        self._execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", row)

    def nodes(self) -> dict[str, dict[str, Any]]:
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT name, record FROM nodes WHERE expires_at > ? ORDER BY name",
                (self._database.clock.now(),),
            ).fetchall()
        return {name: json.loads(record) for name, record in rows}

    def retire(self, node: str) -> None:
        self._execute("DELETE FROM nodes WHERE name = ?", (node,))

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        now = self._database.clock.now()
        row: tuple[int] | None = self._database.write(
            lambda transaction: transaction.execute(
                sql.ACQUIRE, (name, holder, now, now + lease)
            ).fetchone()
        )
        return None if row is None else row[0]

    def release(self, name: str, holder: str) -> None:
        self._execute(
            "UPDATE leases SET holder = '', expires_at = 0 WHERE name = ? AND holder = ?",
            (name, holder),
        )

    def _execute(self, statement: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        """Run one statement in a transaction of its own."""
        return self._database.write(lambda transaction: transaction.execute(statement, parameters))


def _number(key: str) -> int:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 19 else 0


def _charge(transaction: Transaction, dead: DeadConsumer, until: float) -> None:
    charge = dead.charge
    for message_id in set(dead.running):
        transaction.execute(
            sql.CHARGE_FOREIGN,
            (storable(message_id), charge.crashes, charge.suspect, charge.verdict, until),
        )
