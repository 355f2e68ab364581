"""Joins: the members of chords' headers that have ended, and the chords that wait for them.

``joins.arrived`` counts the rows of ``arrivals``, which is the set: a member that arrives twice is
one row, so the count grows by the rows that were new, in the same transaction. Reading the count
keeps a header of 100,000 members from being counted for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from umbel.message import Arrival, Join
from umbel.servers.seams import Joined
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.packing import storable
from umbel.servers.sqlite.storing import Store


class SqliteJoins:
    """See ``seams.Joins``."""

    def __init__(self, store: Store) -> None:
        self._database = store.database

    def open(self, joins: Sequence[Join]) -> None:
        now = self._database.clock.now()
        self._database.write(lambda transaction: open_joins(transaction, joins, now=now))

    def enlarge(self, join_id: str, members: int) -> None:
        given = (storable(join_id), members)
        self._database.write(lambda transaction: transaction.execute(sql.ENLARGE_JOIN, given))

    def joined(self, join_ids: Sequence[str]) -> dict[str, Joined]:
        found: dict[str, Joined] = {}
        with self._database.read() as connection:
            for join_id in join_ids:
                row = connection.execute(sql.COMPLETE_JOIN, (storable(join_id),)).fetchone()
                if row is not None:
                    parts = connection.execute(sql.PARTS, (row[0],)).fetchall()
                    found[join_id] = Joined(row[1], [part for (part,) in parts])
        return found

    def unclosed(self, *, older_than: float, limit: int = 100) -> Sequence[str]:
        before = self._database.clock.now() - older_than
        with self._database.read() as connection:
            rows = connection.execute(sql.UNCLOSED_JOINS, (before, limit)).fetchall()
        return [join_id for (join_id,) in rows]


def open_joins(transaction: Transaction, joins: Iterable[Join], *, now: float) -> None:
    """Say how many members joins have, unless that was said."""
    for join in joins:
        expires_at = None if join.expires_in is None else now + join.expires_in
        transaction.execute(
            sql.OPEN_JOIN, (storable(join.id), join.size, join.context, expires_at, now)
        )


def arrive(transaction: Transaction, arrivals: Iterable[Arrival], *, now: float) -> list[str]:
    """Note arrivals; return the joins that they complete."""
    by_join: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        by_join.setdefault(arrival.join, []).append(arrival)
    return [
        join_id for join_id, members in by_join.items() if _arrive(transaction, members, now=now)
    ]


def _arrive(transaction: Transaction, arrivals: Sequence[Arrival], *, now: float) -> bool:
    """Note arrivals at one join; tell whether they complete it."""
    last = arrivals[-1]
    context = next((each.context for each in arrivals[::-1] if each.context), b"")
    join_id = storable(last.join)
    expires_at = None if last.expires_in is None else now + last.expires_in
    if context:
        transaction.execute(sql.MEET_JOIN, (join_id, context, expires_at))
    number, is_complete = transaction.execute(sql.JOIN, (join_id,)).fetchone() or (0, True)
    if is_complete:
        return False
    rows = [
        (number, storable(each.member), math.inf if each.index is None else each.index, each.part)
        for each in arrivals
    ]
    new = transaction.executemany(sql.ARRIVE, rows).rowcount
    (complete_at,) = transaction.execute(sql.COUNT_IN, (number, new, context, now)).fetchone()
    return complete_at is not None


def may_close(transaction: Transaction, join_id: str) -> bool:
    """Tell whether a join is complete and not closed."""
    return transaction.execute(sql.COMPLETE_JOIN, (storable(join_id),)).fetchone() is not None


def close(transaction: Transaction, join_id: str) -> None:
    """Close a join: its row stays, so that who arrives late is known to be late."""
    number, _ = transaction.execute(sql.JOIN, (storable(join_id),)).fetchone()
    transaction.execute(sql.CLOSE_JOIN, (number,))
    transaction.execute(sql.DELETE_ARRIVALS, (number,))
