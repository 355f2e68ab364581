"""What queues limit: the number of their messages, and how long these may wait.

Both end a message among the dead letters, with the reason. Queues without limits pay nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.routes import QueueRow

#: Messages ended by one call, so that many at once do not stall everyone.
SLICE = 500


def room(transaction: Transaction, queue: QueueRow) -> int:
    """Return how many more messages may wait in a queue that refuses what is too much."""
    assert queue.max_length is not None
    (waiting,) = transaction.execute(sql.COUNT_READY, (queue.id, queue.max_length)).fetchone()
    return max(0, queue.max_length - int(waiting))


def trim(transaction: Transaction, queue: QueueRow, *, now: float) -> None:
    """End the oldest messages of a queue that is too long, those of the lowest priority first."""
    if queue.max_length is None or queue.refuses:
        return
    while True:
        limit = queue.max_length + SLICE
        (waiting,) = transaction.execute(sql.COUNT_READY, (queue.id, limit)).fetchone()
        excess = waiting - queue.max_length
        if excess <= 0:
            return
        rows = transaction.execute(sql.LEAST_READY, (queue.id, excess)).fetchall()
        reason = f"the queue is full (max_length {queue.max_length})"
        _bury(transaction, [(queue.id, *row) for row in rows], queue.name, reason, now)


def watch_age(
    transaction: Transaction, queue: QueueRow, ids: Sequence[tuple[int, int]], *, now: float
) -> None:
    """Remember when these (id, rank) become too old for their queue."""
    if queue.message_ttl is not None:
        until = now + queue.message_ttl
        transaction.executemany(
            sql.INSERT_EXPIRING, [(until, number, queue.id, rank) for number, rank in ids]
        )


def end_the_old(transaction: Transaction, names: dict[int, str], *, now: float) -> None:
    """End the messages whose time in their queue is over; who is held is left alone."""
    rows = transaction.execute(sql.EXPIRED, (now, SLICE)).fetchall()
    transaction.executemany(sql.DELETE_EXPIRING, [row[:2] for row in rows])
    for queue in {row[2] for row in rows}:
        waiting = [
            (row[2], row[3], row[1])
            for row in rows
            if row[2] == queue
            and transaction.execute(sql.IS_READY, (row[2], row[3], row[1])).fetchone()
        ]
        _bury(transaction, waiting, names.get(queue, ""), "it waited too long (message_ttl)", now)


def _bury(
    transaction: Transaction,
    rows: Sequence[tuple[int, int, int]],
    queue: str,
    reason: str,
    now: float,
) -> None:
    for row in rows:
        transaction.execute(sql.BURY_READY, (*row, queue, reason, now))
        transaction.execute(sql.DELETE_READY, row)
    ids = json.dumps([row[2] for row in rows])
    transaction.execute(sql.DELETE_MESSAGES, (ids,))
