"""Who holds what: sessions of consumers, their ends, and giving back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from umbel.servers.seams import DeadConsumer
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.declaring import delete_queue
from umbel.servers.sqlite.packing import unpack
from umbel.servers.sqlite.routes import Routes


def subscribe(
    transaction: Transaction, consumer_id: str, queues: Iterable[str], *, until: float
) -> int:
    """Register a session, or one that was fenced anew; return the number its holds carry."""
    cursor = transaction.execute(
        "INSERT INTO consumers (consumer_id, lease_until) VALUES (?, ?)", (consumer_id, until)
    )
    number = cursor.lastrowid
    assert number is not None
    transaction.executemany(
        "INSERT OR IGNORE INTO subscriptions VALUES (?, ?)", [(name, number) for name in queues]
    )
    return number


def give_back(transaction: Transaction, tags: Sequence[tuple[int, int]]) -> None:
    """Give back messages that are still held by whom the tags say, uncounted."""
    holders = dict(tags)
    held = transaction.execute(sql.HELD, (json.dumps(list(holders)),)).fetchall()
    ours = [row for row in held if row[1] == holders[row[0]]]
    ids = (json.dumps([row[0] for row in ours]),)
    transaction.execute(sql.GIVE_BACK, ids)
    transaction.execute(sql.UNHOLD, ids)
    for _, _, queue, _ in ours:
        transaction.note(queue)
    _delete_orphans(transaction, {row[2] for row in ours})


def charge(transaction: Transaction, number: int, dead: DeadConsumer) -> None:
    """Write down what a death means for the messages that were running."""
    running = frozenset(dead.running)
    if not running:
        return
    charge = dead.charge
    for held_id, data in transaction.execute(sql.HELD_BY, (number,)).fetchall():
        if unpack(data, b"")[0].id in running:
            transaction.execute(
                sql.CHARGE, (held_id, charge.crashes, charge.suspect, charge.verdict)
            )


def fence(
    transaction: Transaction, number: int, *, routes: Routes, now: float, losses: int, seen: int
) -> int:
    """End a session: give back what it holds, and make all its later commits stale.

    ``losses`` are added to each message; ``seen`` says whether it counts as delivered before.
    """
    held = transaction.execute(sql.HELD_QUEUES, (number,)).fetchall()
    if held:
        transaction.execute(sql.GIVE_BACK_ALL, (number, losses, seen))
        transaction.execute(sql.UNHOLD_ALL, (number,))
        for queue, count in held:
            transaction.note(queue, count)
    queues = transaction.execute(
        "DELETE FROM subscriptions WHERE consumer = ? RETURNING queue", (number,)
    ).fetchall()
    transaction.execute("DELETE FROM consumers WHERE number = ?", (number,))
    _leave(transaction, [name for (name,) in queues], routes, now)
    _delete_orphans(transaction, {queue for queue, _ in held})
    return sum(count for _, count in held)


def _leave(transaction: Transaction, queues: Iterable[str], routes: Routes, now: float) -> None:
    """Delete the queues that end with their last consumer; begin the time of those that expire."""
    for name in queues:
        row = routes.queues.get(name)
        if row is None or not (row.auto_delete or row.exclusive or row.expires):
            continue
        used = transaction.execute(
            "SELECT 1 FROM subscriptions WHERE queue = ?", (name,)
        ).fetchone()
        if used is None and (row.auto_delete or row.exclusive):
            delete_queue(transaction, row.id)
        transaction.execute("UPDATE queues SET used_at = ? WHERE id = ?", (now, row.id))


def _delete_orphans(transaction: Transaction, queues: Iterable[int]) -> None:
    """Delete what was given back to queues that were deleted meanwhile."""
    for queue in queues:
        row = transaction.execute("SELECT 1 FROM queues WHERE id = ?", (queue,)).fetchone()
        if row is None:
            delete_queue(transaction, queue)
