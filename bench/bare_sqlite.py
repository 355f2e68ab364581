"""The bare loop on SQLite: the fewest lines that reserve, run and delete in batches of 100.

It is the ceiling that umbel is held against. Two variants:

    plain         a batch is reserved in one transaction and deleted in the next; nothing is decoded
    BENCH_CALL=1  each message is JSON, its function is called, and its result is stored in the
                  transaction that deletes it: what "late acknowledgement, results stored" needs

What it lacks is what a queue is for: nobody takes back what a dead process held, nothing is fenced,
scheduled, routed, retried or woken; whoever is idle polls every millisecond.

    python -m bench.bare_sqlite 2     two workers on $BENCH_FILE
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from bench import apps
from bench.bare import BATCH, CALL, POLL, numbers, polled, run
from bench.tasks import TASKS, probe

#: Brings a message to the size of one in Celery's format, about 600 bytes.
PADDING = "." * 550

PUBLISH = "INSERT INTO message (id, body) VALUES (?, ?)"
#: :owner reserves the oldest :limit messages that nobody holds; returns their ids and bodies.
RESERVE = """UPDATE message SET owner = :owner WHERE id IN
    (SELECT id FROM message WHERE owner IS NULL ORDER BY id LIMIT :limit) RETURNING id, body"""
DELETE = "DELETE FROM message WHERE id = ?"
STORE = "INSERT INTO result VALUES (?, ?)"
RESULT = "SELECT value FROM result WHERE id = ?"


def connect() -> sqlite3.Connection:
    """Open the file and make its tables."""
    connection = sqlite3.connect(apps.file(), timeout=30.0, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {apps.synchronous()}")
    connection.executescript(
        "CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY, owner INTEGER, body BLOB);"
        "CREATE TABLE IF NOT EXISTS result (id INTEGER PRIMARY KEY, value BLOB)"
    )
    return connection


def work() -> None:
    """Reserve, run and delete, for ever."""
    connection = connect()
    finish = run_and_store if CALL else count_and_delete
    reservation = {"owner": os.getpid(), "limit": BATCH}
    while True:
        batch = connection.execute(RESERVE, reservation).fetchall()
        if batch:
            finish(connection, batch)
        else:
            time.sleep(POLL)


def count_and_delete(connection: sqlite3.Connection, batch: list[tuple[int, bytes]]) -> None:
    """Note each message, then delete them all."""
    mark = probe().mark
    for _ in batch:
        mark()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(DELETE, [(number,) for number, _ in batch])
    connection.execute("COMMIT")


def run_and_store(connection: sqlite3.Connection, batch: list[tuple[int, bytes]]) -> None:
    """Call each message's function, then store the results and delete the messages."""
    results = []
    for number, body in batch:
        task, args, _ = json.loads(body)
        results.append((number, json.dumps(TASKS[task](*args)).encode()))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(STORE, results)
    connection.executemany(DELETE, [(number,) for number, _ in batch])
    connection.execute("COMMIT")


# -- what the client calls ------------------------------------------------------------------------


def sender(task: str) -> Callable[..., Any]:
    """Return a function that inserts one message."""
    execute = opened().execute

    def send(*args: Any) -> int:
        number = next(numbers)
        execute(PUBLISH, (number, encode(task, args)))
        return number

    return send


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Insert many in one transaction."""
    connection, rows = opened(), [(next(numbers), encode(task, args)) for args in calls]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(PUBLISH, rows)
    connection.execute("COMMIT")
    return [number for number, _ in rows] if CALL else []


def encode(task: str, args: tuple[Any, ...]) -> bytes:
    """Return a message's body: of the right size, and its call if the worker shall read it."""
    return json.dumps((task, args, PADDING)).encode() if CALL else _BODY


def wait(handle: Any, timeout: float) -> Any:
    """Poll for a result."""
    row = polled(lambda: opened().execute(RESULT, (handle,)).fetchone(), timeout)
    return json.loads(row[0])


#: The client's connection.
opened = cache(connect)
_BODY = json.dumps(("noop", (1,), PADDING)).encode()


if __name__ == "__main__":
    connect().close()
    run(work)
