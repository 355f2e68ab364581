"""The tables, their version, and how a file of an older version is brought up to date.

    queues ── bindings ── exchanges   what was declared; state.topology counts the changes
    messages                          the bytes; written once, never rewritten
    ready / delayed / held            where each message is: one small row in one of the three, or
                                      none yet, behind state.sorted: the inbox
    expiring                          when messages of queues with a limit of age come to it
    consumers ── subscriptions        who holds; a consumer that was fenced has no row any more
    dead                              dead letters, with their bytes
    charges, charged                  what stands against messages of another server; the dead
                                      consumers that were counted
    results                           in the order of storing, found by the beginning of the id
    joins ── arrivals                 chords that wait, and the members that have ended
    revoked, nodes, leases            the rest of the ledger
    timetables, entries, progress     schedules: what was added, and how far each has come

``messages.id`` is the order of sending, and ``results.seq`` that of storing: the clock's
microseconds, but always above the highest, so that a number is not used again although the table
was empty in between.

How a hold is written was measured, in us per message for batches of 100 (message of 700 bytes),
receive and end together:

    one table, UPDATE ... SET held_by, partial index of what is ready    11.0
    messages, and small rows that move from ready to held                 5.7   <- this
    the same, with one row for a whole batch of holds                     4.7

The first rewrites the whole message, twice if it is large. The third saves a little, but cannot say
who holds a message, which is asked for by every commit.

``state.topology`` begins at random, so that what a process remembers of a file that was deleted
does not pass for what is in the next one.

``held.batch`` is the number of the receive within its session. A receive is a few spans of ids;
others within such a span may be held from before, and must not be delivered twice.

What the pages cost: each that a transaction touches is 4.5 us at its end, and once more that at the
next checkpoint. A page that becomes free is written too. So the size of a message's row counts
twice: see ``packing``.

The inbox saves a publish its second page. A message that was just published is only appended to
``messages``, with its place (queue, rank). Who receives next sorts it into ``ready`` together with
all others whose id is above ``state.sorted``; a publisher does when it has appended hundreds. Each
page costs two writes to the log: one by one, a publish took 39 us with the row of ``ready``, and
takes 29 without.

Results, us each: WITHOUT ROWID by id took 40 at 30,000 (whole rows are spread over all pages), a
rowid table with a unique index of the text 22, one with an index of a number made of the id 14.
That number is the id's first 64 bits, so that ids which begin with the time, as those of UUID
version 7 do, are neighbours in the index: with a million results stored, ending a task costs 47 us
if its id is random, because each dirties a page of the index of its own, and 16 if it is not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol

from umbel.exceptions import StorageError


class Executing(Protocol):
    """A connection, or a transaction on it."""

    @property
    def execute(self) -> Callable[..., sqlite3.Cursor]:
        """Run one statement."""
        ...


#: "umbl": tells our files from other SQLite databases.
APPLICATION_ID = 0x756D626C
#: SQLite that knows RETURNING.
OLDEST_SQLITE = (3, 35, 0)

VERSION_1 = """
CREATE TABLE state (
    topology INTEGER NOT NULL,
    sorted INTEGER NOT NULL,
    swept_at REAL NOT NULL
);
INSERT INTO state VALUES (abs(random() / 2), 0, 0);

CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    options TEXT NOT NULL,
    used_at REAL NOT NULL
);
CREATE TABLE exchanges (name TEXT PRIMARY KEY, options TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    queue INTEGER NOT NULL,
    arguments TEXT NOT NULL,
    UNIQUE (exchange, routing_key, queue)
);

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    queue INTEGER,
    rank INTEGER,
    data TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE ready (
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    id INTEGER NOT NULL,
    crashes INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    suspect INTEGER NOT NULL DEFAULT 0,
    redelivered INTEGER NOT NULL DEFAULT 0,
    verdict TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (queue, rank, id)
) WITHOUT ROWID;
CREATE TABLE delayed (
    due REAL NOT NULL,
    id INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    PRIMARY KEY (due, id)
) WITHOUT ROWID;
CREATE TABLE expiring (
    expires_at REAL NOT NULL,
    id INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    PRIMARY KEY (expires_at, id)
) WITHOUT ROWID;
CREATE TABLE held (
    id INTEGER PRIMARY KEY,
    consumer INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    suspect INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    verdict TEXT NOT NULL
);
CREATE TABLE consumers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer_id TEXT NOT NULL UNIQUE,
    lease_until REAL NOT NULL
);
CREATE TABLE subscriptions (
    queue TEXT NOT NULL,
    consumer INTEGER NOT NULL,
    PRIMARY KEY (queue, consumer)
) WITHOUT ROWID;

CREATE TABLE dead (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    data TEXT NOT NULL,
    body BLOB NOT NULL,
    queue TEXT NOT NULL,
    reason TEXT NOT NULL,
    died_at REAL NOT NULL,
    crashes INTEGER NOT NULL
);

CREATE TABLE results (
    seq INTEGER PRIMARY KEY,
    prefix INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_at REAL,
    meta BLOB NOT NULL
);
CREATE INDEX results_by_prefix ON results (prefix);

CREATE TABLE charges (
    message_id TEXT PRIMARY KEY,
    crashes INTEGER NOT NULL,
    suspect INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE charged (consumer_id TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;

CREATE TABLE revoked (task_id TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (
    name TEXT PRIMARY KEY, record TEXT NOT NULL, expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, expires_at REAL NOT NULL
) WITHOUT ROWID;
"""

VERSION_2 = """
ALTER TABLE revoked ADD COLUMN asked_by TEXT NOT NULL DEFAULT '';
ALTER TABLE revoked ADD COLUMN asked_at REAL NOT NULL DEFAULT 0;
ALTER TABLE revoked ADD COLUMN signal TEXT NOT NULL DEFAULT ''
"""

VERSION_3 = """
CREATE TABLE joins (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    size INTEGER,
    added INTEGER NOT NULL DEFAULT 0,
    arrived INTEGER NOT NULL DEFAULT 0,
    context BLOB NOT NULL,
    complete_at REAL,
    closed INTEGER NOT NULL DEFAULT 0,
    expires_at REAL
);
CREATE INDEX unclosed_joins ON joins (complete_at) WHERE complete_at IS NOT NULL AND NOT closed;
CREATE INDEX joins_by_expiry ON joins (expires_at);
CREATE TABLE arrivals (
    joined INTEGER NOT NULL,
    member TEXT NOT NULL,
    place REAL NOT NULL,
    part BLOB NOT NULL,
    PRIMARY KEY (joined, member)
) WITHOUT ROWID
"""

VERSION_4 = """
CREATE TABLE timetables (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    timetable TEXT NOT NULL, name TEXT NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (timetable, name)
) WITHOUT ROWID;
CREATE TABLE progress (
    timetable TEXT NOT NULL,
    name TEXT NOT NULL,
    due_at REAL NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (timetable, name)
) WITHOUT ROWID
"""

#: UPGRADES[n] brings a file of version n to version n + 1; an empty file has version 0.
UPGRADES: tuple[str, ...] = (VERSION_1, VERSION_2, VERSION_3, VERSION_4)


def check_library() -> None:
    """Raise StorageError when Python was built with a SQLite that is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(str(part) for part in OLDEST_SQLITE)
        raise StorageError(
            f"umbel needs SQLite {wanted} or newer, this Python has {sqlite3.sqlite_version}"
        )


def check_version(connection: Executing) -> None:
    """Raise StorageError when a newer umbel upgraded the file while we had it open."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(UPGRADES):
        raise _too_new(version, len(UPGRADES))


def is_current(connection: sqlite3.Connection, upgrades: Sequence[str] = UPGRADES) -> bool:
    """Tell whether the file has the tables of this version; refuse what is not ours or newer."""
    application, version, objects = connection.execute(
        "SELECT (SELECT application_id FROM pragma_application_id),"
        " (SELECT user_version FROM pragma_user_version),"
        " (SELECT count(*) FROM sqlite_schema)"
    ).fetchone()
    if application not in (0, APPLICATION_ID) or (application == 0 and objects):
        raise StorageError("this is the database of another program; choose another path")
    if version > len(upgrades):
        raise _too_new(version, len(upgrades))
    return bool(version == len(upgrades))


def upgrade(connection: sqlite3.Connection, upgrades: Sequence[str] = UPGRADES) -> None:
    """Make or update the tables. Inside a transaction of the caller's, so all or nothing."""
    if is_current(connection, upgrades):
        return
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for script in upgrades[version:]:
        for statement in script.split(";"):
            connection.execute(statement)
    # Programs that have the file open read the topology again, and see the version there.
    connection.execute("UPDATE state SET topology = topology + 1")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(upgrades)}")


def _too_new(version: int, known: int) -> StorageError:
    return StorageError(
        f"the file was made by a newer umbel (schema {version}, this one knows up to {known}): "
        "upgrade umbel here too"
    )
