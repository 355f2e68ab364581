"""One SQLite file as this process sees it: two connections, a fair lock for writers, translated errors.

Purpose. Any thread may call; ``write()`` and ``read()`` are the only ways to the file.

Owners. The writing connection belongs to whoever holds ``_writing``, the reading one to whoever holds
``_reading``. Reads never wait for writers (WAL).

Fairness. SQLite's own busy handler sleeps and tries again, so that a process that comes back to the
lock quickly wins it over and over: with eight busy workers a publisher's p99 was 430 ms. Writers
therefore first take a blocking ``flock`` on ``<file>-lock``, which the kernel grants in order: 30 ms.
It costs about a microsecond when nobody else wants it. SQLite's lock stays underneath, so a foreign
program that writes (the sqlite3 shell) does no harm; it is waited for up to ``busy_timeout``.

Fork. A connection must not be used in a child, nor closed there: closing may check-point a log that
the parent is writing. ``_abandon`` therefore keeps the parent's objects alive, unused, for as long as
the child lives, and the child opens its own. The lock's descriptor is closed, as its lock would
otherwise live as long as the child.

Rejected: ``BEGIN EXCLUSIVE`` with a long busy timeout (unfair); one connection per thread (memory,
and cold caches); a writer thread (two switches of thread per publish).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import (
    ConnectionLost,
    ImproperlyConfigured,
    StorageError,
    TimeoutError,  # noqa: A004 -- ours
    TransportError,
)
from umbel.servers.sqlite import location, schema
from umbel.servers.sqlite.bells import Bell, Bells

#: Pages of 4 KiB in the log before a writer copies them into the file. More means fewer fsyncs.
CHECKPOINT_PAGES = 2000
#: The log is cut back to this many bytes after it has grown.
LOG_LIMIT = 64 << 20
#: Seconds that opening the file may take.
OPEN_TIMEOUT = 10.0
#: Seconds a write waits for its turn when the caller gave no deadline.
WRITE_TIMEOUT = 30.0
#: Seconds that one attempt waits for a foreign program's lock, holding up the others meanwhile.
BUSY_TIMEOUT = 0.25


@dataclass(frozen=True, slots=True)
class Options:
    """How a file is opened."""

    #: NORMAL survives the death of every process; FULL also a power cut, for an fsync per commit.
    synchronous: str = "NORMAL"
    clock: Clock = SYSTEM_CLOCK

    @staticmethod
    def read(options: dict[str, Any]) -> Options:
        """Take what concerns the file out of a server's options."""
        synchronous = str(options.get("synchronous", "NORMAL")).upper()
        if synchronous not in ("NORMAL", "FULL"):
            raise ImproperlyConfigured(f"synchronous: expected NORMAL or FULL, got {synchronous!r}")
        return Options(synchronous=synchronous, clock=options.get("clock", SYSTEM_CLOCK))


class Transaction:
    """A write under way: its connection, and whom to wake once it is committed."""

    __slots__ = ("execute", "executemany", "queued", "stored")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        #: New messages by queue id (-1 = wake every consumer of it), for the bells.
        self.queued: dict[int, int] = {}
        #: Hashes of ids whose results were stored, for the bells.
        self.stored: list[int] = []


class Database:
    """A file and this process's connections to it. Thread-safe; opens itself again after a fork."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.clock = options.clock
        self.bells = Bells(path)
        self._synchronous = options.synchronous
        self._reset()
        _open.add(self)

    def _reset(self) -> None:
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._transaction: Transaction | None = None
        self._lock_fd = -1

    def write(self, *, deadline: float | None = None) -> _Write:
        """Return a context in which the file is ours alone; commits at its end, or undoes all.

        Raises TimeoutError when ``deadline`` (in monotonic time) passes before it is our turn; the
        same as StorageError where no deadline was given.
        """
        return _Write(self, deadline)

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Return a context with a connection for reading; each statement sees the newest state."""
        with self._reading, translating(self.path):
            if self._reader is None:
                with self._writing:
                    self._open_writer()
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only = 1")
            yield self._reader

    def bell(self, kind: int) -> Bell:
        """Claim a bell; the file is opened first, so that its folder exists."""
        with self.read():
            return self.bells.bell(kind)

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        with self._reading, self._writing:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            self._reader = self._writer = self._transaction = None
            self._lock_fd = -1
        self.bells.close()

    def _begin(self, deadline: float | None) -> Transaction:
        timeout = WRITE_TIMEOUT if deadline is None else deadline - self.clock.monotonic()
        if timeout <= 0.0 or not self._writing.acquire(timeout=timeout):
            raise TimeoutError(f"{self.path}: nothing was written, the deadline passed before")
        try:
            with translating(self.path):
                transaction = self._transaction or self._open_writer()
                self._take_turn(transaction, SYSTEM_CLOCK.monotonic() + timeout)
        except BaseException:
            self._writing.release()
            raise
        return transaction

    def _take_turn(self, transaction: Transaction, deadline: float) -> None:
        while True:
            self._flock(deadline)
            try:
                transaction.execute("BEGIN IMMEDIATE")
            except BaseException as error:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
                # A foreign program has SQLite's lock: step aside, so that others' deadlines hold.
                if not _is_busy(error) or SYSTEM_CLOCK.monotonic() >= deadline:
                    raise
            else:
                return

    def _flock(self, deadline: float) -> None:
        del deadline
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)

    def _end(self, error: BaseException | None) -> None:
        writer, transaction = self._writer, self._transaction
        assert writer is not None
        assert transaction is not None
        rung: list[int] = []
        try:
            with translating(self.path):
                try:
                    if error is None:
                        transaction.execute("COMMIT")
                        if transaction.queued or transaction.stored:
                            rung = self.bells.claim(transaction.queued, transaction.stored)
                finally:
                    if writer.in_transaction:
                        writer.rollback()
        finally:
            if transaction.queued or transaction.stored:
                transaction.queued, transaction.stored = {}, []
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            self._writing.release()
        if rung:
            self.bells.ring(rung)

    def _open_writer(self) -> Transaction:
        if self._transaction is not None:
            return self._transaction
        schema.check_library()
        location.refuse_network(self.path)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock_fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock_fd = os.open(f"{self.path}-lock", flags, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            self._create()
            writer = self._connect()
            self._prepare(writer)
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        self._writer = writer
        self._transaction = Transaction(writer)
        return self._transaction

    def _create(self) -> None:
        # Only a new file is opened here: closing a descriptor of a file that another connection of
        # this process has open would drop that connection's locks.
        with contextlib.suppress(FileExistsError):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.close(fd)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
        return connection

    def _prepare(self, writer: sqlite3.Connection) -> None:
        try:
            if schema.is_current(writer):
                return
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("BEGIN IMMEDIATE")
            schema.upgrade(writer)
            writer.execute("COMMIT")
        except BaseException:
            writer.close()
            raise

    def _abandon(self) -> None:
        """Forget, in a forked child, what belongs to the parent."""
        _abandoned.extend(each for each in (self._writer, self._reader) if each is not None)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._reset()
        self.bells.abandon()


class _Write:
    """The context of one write."""

    __slots__ = ("_database", "_deadline")

    def __init__(self, database: Database, deadline: float | None) -> None:
        self._database = database
        self._deadline = deadline

    def __enter__(self) -> Transaction:
        return self._database._begin(self._deadline)  # noqa: SLF001 -- one thing in two classes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with translating(self._database.path) if error is not None else contextlib.nullcontext():
            self._database._end(error)  # noqa: SLF001 -- see above
            if isinstance(error, sqlite3.Error):
                raise error


class translating:  # noqa: N801 -- reads as a verb where it is used
    """Turn errors of sqlite3 and of the file system into ours, saying which file and what to do."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, (sqlite3.Error, OSError)):
            raise translated(error, self._path) from error
        if isinstance(error, StorageError) and str(self._path) not in str(error):
            raise StorageError(f"{self._path}: {error}") from error


#: Primary result codes of SQLite -> what to do.
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked: end that program's transaction",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked: end that program's transaction",
    sqlite3.SQLITE_FULL: "no space is left: free some, nothing that was confirmed is lost",
    sqlite3.SQLITE_IOERR: "the disk failed, or is full: see the system's log",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: set it aside and restore it, or run "
    "`sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "this is no SQLite database: choose another path, or set the file aside",
    sqlite3.SQLITE_READONLY: "it cannot be written: check its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the path, its owner and mode",
    sqlite3.SQLITE_TOOBIG: "a message or result is larger than SQLite takes (1 GB)",
}


def translated(error: sqlite3.Error | OSError, path: Path) -> TransportError:
    """Return our exception for one of sqlite3's or the file system's."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, OSError):
        return StorageError(f"{path}: {error.strerror or error}")
    if code is None:
        return ConnectionLost(f"{path}: {error}")
    advice = _ADVICE.get(code & 0xFF)
    return StorageError(f"{path}: {error}" + (f"; {advice}" if advice else ""))


def _is_busy(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


#: Every database of this process, so that a forked child can let go of them.
_open: weakref.WeakSet[Database] = weakref.WeakSet()
#: The parent's connections, in a child: kept from being closed.
_abandoned: list[sqlite3.Connection] = []


def _after_fork_in_child() -> None:
    for database in list(_open):
        database._abandon()  # noqa: SLF001 -- one module


os.register_at_fork(after_in_child=_after_fork_in_child)
