"""One SQLite file as this process sees it: two connections, a fair turn for writers, their forks.

Purpose. ``write()`` and ``read()`` are the only ways to the file. Any thread may call them.

Owners. The writing connection belongs to whoever holds ``_writing``, the reading one to whoever
holds ``_reading``. In WAL mode readers never wait for writers, nor writers for readers.

Fairness. SQLite's own busy handler sleeps and tries again, so that a process that comes back to the
lock at once wins it over and over: with eight busy workers a publisher's p99 was 430 ms. Writers
therefore first take their turn by a blocking ``flock`` on ``<file>-lock``, which the kernel grants
in order: 30 ms. When nobody else wants it that costs about a microsecond. SQLite's lock stays
underneath, so a foreign program that writes (the sqlite3 shell) does no harm; it is waited for in
short attempts, the turn given up in between.

Deadlines. Nothing interrupts a blocking ``flock``, and its holder may be stopped (Ctrl-Z in a
worker's terminal). Who has a deadline and finds the turn taken therefore lets a short-lived thread
wait (``turn``) and leaves it behind when the deadline passes. Who has none waits himself, which
saves two switches of thread.

Files that vanish. ``rm tasks.sqlite`` during development must not make a running program write into
a file that nobody sees any more: who uses it compares the path's inode with the open one, at most
every GLANCE seconds (2 us), and opens anew. SQLite notices as well, and deletes no log of the new
file.

Fork. SQLite's library remembers which locks its process holds, and a child inherits that memory but
not the locks: it would write without them, or wait for ever for a transaction of a thread that does
not exist there. So before a fork the parent lets its transactions end and closes; both sides open
anew when they need to. A fork that Python is not told of (in C), or that would have to wait too
long, leaves connections in the child. One whose owner only waited for its turn is closed there,
which touches nothing of the parent's; others are kept, unused, because to undo their transactions
would. The turn's descriptor is closed as well: a lock lives as long as any copy of it.

Exceptions that strike. A soft time limit, or Ctrl-C, raises in the main thread between any two
steps of Python, also inside of our own begin and end. So a write is a function that is given to
``write``: a ``with`` could be left before the first step of its ``__exit__``. Whatever strikes, one
``except`` finds out by the lock, which knows its owner, what there is to be undone. A signal
handler that writes while its own thread is writing is refused, as it would wait for itself.

Rejected: ``BEGIN EXCLUSIVE`` with a long busy timeout (unfair); one connection per thread (memory,
cold caches); a writer thread (two switches of thread per publish); ``lockf`` for the turn (dropped
when any descriptor of the file is closed, and blind to threads).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TimeoutError, TransportError, UmbelError
from umbel.servers.sqlite import location, schema
from umbel.servers.sqlite.bells import Bells
from umbel.servers.sqlite.errors import is_broken, is_busy, translating
from umbel.servers.sqlite.options import Options
from umbel.servers.sqlite.turn import TURN_FLAGS, Turn

T = TypeVar("T")

#: Pages of 4 KiB in the log before a writer copies them into the file, while the others wait. With
#: 500, 1000, 2000, 4000 the longest turn was 4, 7, 18, 31 ms; from 1000 on throughput is the same.
CHECKPOINT_PAGES = 1000
#: The log is cut back to this many bytes after it has grown.
LOG_LIMIT = 64 << 20
#: Seconds a write waits for its turn when the caller gave no deadline.
WRITE_TIMEOUT = 60.0
#: Seconds between looks whether the file is still there.
GLANCE = 0.02
#: Seconds that a fork waits for the transactions of other threads.
FORK_TIMEOUT = 2.0
#: Rows inserted by one statement: 0.95 us a result instead of 1.5 by ``executemany``; 0.9 with 128.
ROWS = 16
#: Seconds that one attempt waits for a foreign program's lock, holding up the others meanwhile.
BUSY_TIMEOUT = 0.25


class Transaction:
    """A write under way: its connection, and whom to wake once it is committed."""

    __slots__ = ("execute", "executemany", "queued", "stored")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        #: New messages by queue id, for the bells.
        self.queued: dict[int, int] = {}
        #: Task ids whose results were stored, for the bells.
        self.stored: list[str] = []

    def note(self, queue: int, count: int = 1) -> None:
        """Ring so many consumers of this queue after the commit."""
        self.queued[queue] = self.queued.get(queue, 0) + count

    def insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows of the same length, each with all columns of the table.

        Sixteen at a time: each statement is a handful of calls into SQLite, whatever it inserts.
        """
        whole = len(rows) - len(rows) % ROWS
        for start in range(0, whole, ROWS):
            values = [*chain.from_iterable(rows[start : start + ROWS])]
            self.execute(_insertion(table, len(rows[0]), ROWS), values)
        if whole < len(rows):
            self.executemany(_insertion(table, len(rows[0]), 1), rows[whole:])

    def begin_anew(self) -> None:
        """Undo what was done so far and go on as if just begun; it stays our turn."""
        self.queued, self.stored = {}, []
        self.execute("ROLLBACK")
        self.execute("BEGIN IMMEDIATE")


@functools.cache
def _insertion(table: str, columns: int, rows: int) -> str:
    marks = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([marks] * rows)}"  # noqa: S608 -- names of ours


class Database:
    """A file and this process's connections to it. Thread-safe; opens itself again after a fork."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.options = options
        self.clock = options.clock
        self.bells = Bells(path)
        self._path_text = str(path)
        self._turn_path = f"{path}-lock"
        self._reset()
        with _registering:
            _open.add(self)

    def _reset(self) -> None:
        self._writing = threading.RLock()
        #: The thread that is writing.
        self._owner = 0
        #: A wait for the turn that is under way.
        self._turn: Turn | None = None
        self._reading = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._transaction: Transaction | None = None
        #: Those of the file that the connections have open; -1 = open anew.
        self._writer_inode = self._reader_inode = -1
        #: When to look at the path again (monotonic time), and what was there.
        self._look_at = 0.0
        self._inode = -2
        self._turn_fd = -1
        #: Who has ``_writing`` waits for the turn, outside of SQLite.
        self._waits = False
        self._mode = 0o600
        #: Locks taken for a fork.
        self._resting: list[Callable[[], None]] = []

    def write(self, work: Callable[[Transaction], T], *, deadline: float | None = None) -> T:
        """Let ``work`` write while the file is ours alone; commit then, or undo all if it raises.

        Raises TimeoutError when ``deadline`` (in monotonic time) passes before it is our turn.
        """
        if self._owner == threading.get_ident():
            raise TransportError(
                f"{self.path}: a signal handler cannot write while its thread is writing: "
                "let another thread do it"
            )
        try:
            transaction = self._begin(deadline)
            result = work(transaction)
            self._commit(transaction)
        except BaseException as error:
            self._undo(error)
            with translating(self.path):
                raise
        return result

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """Return a context with a connection for reading; each statement sees the newest state."""
        with self._reading, translating(self.path):
            reader = self._reader
            if reader is None or self._reader_inode != self._glance():
                reader = self._open_reader()
            try:
                yield reader
            except sqlite3.Error as error:
                if is_broken(error):
                    self._reader_inode = -1
                raise

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        with self._reading, self._writing:
            self._close_reader()
            self._close_writer()
            self.bells.close()

    def __del__(self) -> None:
        # sqlite3 closes its connections itself when nobody has them any more.
        if self._turn_fd >= 0:
            os.close(self._turn_fd)

    # --- a write, from begin to end

    def _begin(self, deadline: float | None) -> Transaction:
        left = WRITE_TIMEOUT if deadline is None else deadline - self.clock.monotonic()
        left = min(left, threading.TIMEOUT_MAX)
        if left <= 0.0 or not self._writing.acquire(timeout=left):
            raise self._too_late()
        self._owner = threading.get_ident()
        until, patient = SYSTEM_CLOCK.monotonic() + left, deadline is None
        transaction = self._transaction
        if transaction is None or self._writer_inode != self._glance():
            transaction = self._open_writer(until, patient=patient)
        self._begin_transaction(transaction, until, patient=patient)
        return transaction

    def _begin_transaction(self, transaction: Transaction, until: float, *, patient: bool) -> None:
        while True:
            self._take_turn(until, patient=patient)
            try:
                transaction.execute("BEGIN IMMEDIATE")
            except BaseException as error:
                fcntl.flock(self._turn_fd, fcntl.LOCK_UN)
                # A foreign program has SQLite's lock: step aside, so that others' deadlines hold.
                if not is_busy(error) or SYSTEM_CLOCK.monotonic() >= until:
                    raise
            else:
                return

    def _take_turn(self, until: float, *, patient: bool) -> None:
        try:
            fcntl.flock(self._turn_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._waits = True
            try:
                self._wait_for_turn(until, patient=patient)
            finally:
                self._waits = False

    def _wait_for_turn(self, until: float, *, patient: bool) -> None:
        if patient:
            fcntl.flock(self._turn_fd, fcntl.LOCK_EX)
            return
        turn = self._turn = Turn(self._turn_path, self._mode)
        if not turn.wait(until - SYSTEM_CLOCK.monotonic()):
            raise self._too_late()
        old = self._turn_fd
        self._turn_fd = turn.fd  # no call between these two, so nothing can strike between them
        self._turn = None
        os.close(old)

    def _commit(self, transaction: Transaction) -> None:
        queued, stored = transaction.queued, transaction.stored
        if queued or stored:
            transaction.queued, transaction.stored = {}, []
        transaction.execute("COMMIT")
        rung = self.bells.claim(queued, stored)
        fcntl.flock(self._turn_fd, fcntl.LOCK_UN)
        self._owner = 0
        self._writing.release()
        while rung and not self.bells.ring(rung):
            # Somebody of these is dead: ring others too, rather one too many than none.
            rung = self.bells.claim(queued, stored)

    def _undo(self, error: BaseException) -> None:
        """Undo what a write has done that raised, wherever in it that was."""
        if not self._writing.acquire(blocking=False):
            return  # another thread's: this one had not got it
        if self._owner == threading.get_ident():
            with contextlib.suppress(sqlite3.Error):
                if isinstance(error, (UmbelError, sqlite3.Error)):
                    self._roll_back(error)
                else:
                    self._close_writer()  # who knows what was half done
            self._owner = 0
        self._writing.release()
        with contextlib.suppress(RuntimeError):  # it was not ours before
            self._writing.release()

    def _roll_back(self, error: BaseException) -> None:
        writer, transaction = self._writer, self._transaction
        if is_broken(error):
            # Whoever mends or replaces the file shall not have to restart us.
            self._writer_inode = -1
        if transaction is not None:
            transaction.queued, transaction.stored = {}, []
        if writer is not None and writer.in_transaction:
            writer.rollback()
        if self._turn_fd >= 0:
            fcntl.flock(self._turn_fd, fcntl.LOCK_UN)

    def _too_late(self) -> TimeoutError:
        return TimeoutError(
            f"{self.path}: nothing was written, the deadline passed before it was our turn; "
            "if there was time enough: is a process that uses this file stopped?"
        )

    # --- opening and closing; the caller holds the lock of what it opens

    def _glance(self) -> int:
        """Return the inode of what is at the path, or was just now."""
        now = SYSTEM_CLOCK.monotonic()
        if now >= self._look_at:
            self._look_at = now + GLANCE
            self._inode = self._look()
        return self._inode

    def _look(self) -> int:
        try:
            return os.stat(self._path_text).st_ino  # noqa: PTH116 -- a Path takes as long again
        except FileNotFoundError:
            return -2

    def _open_reader(self) -> sqlite3.Connection:
        with self._writing:
            if self._transaction is None or self._writer_inode != self._glance():
                self._open_writer(SYSTEM_CLOCK.monotonic() + WRITE_TIMEOUT, patient=True)
            inode = self._writer_inode
        self._close_reader()
        self._reader = self._connect()
        self._reader.execute("PRAGMA query_only = 1")
        self._reader_inode = inode
        return self._reader

    def _open_writer(self, until: float, *, patient: bool) -> Transaction:
        with translating(self.path):
            schema.check_library()
            location.refuse_network(self.path)
            self._close_writer()
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(self.path)
            self._mode = self.path.stat().st_mode & 0o666
            self._turn_fd = _open_as(self._turn_path, self._mode)
            self._writer = self._connect()
            if not _is_ready(self._writer):
                self._take_turn(until, patient=patient)
                try:
                    _prepare(self._writer)
                finally:
                    fcntl.flock(self._turn_fd, fcntl.LOCK_UN)
            self.bells.open(self._mode)
            self._writer_inode = self._inode = self._look()
            self._transaction = Transaction(self._writer)
            return self._transaction

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute(f"PRAGMA synchronous = {self.options.synchronous}")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
        return connection

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _close_writer(self) -> None:
        """Close all that a write uses; that ends the turn, too."""
        writer, self._writer, self._transaction = self._writer, None, None
        turn, self._turn = self._turn, None
        fd, self._turn_fd = self._turn_fd, -1
        if fd >= 0:
            os.close(fd)
        if turn is not None:
            turn.give_up()
        if writer is not None:
            writer.close()

    # --- forks

    def rest(self) -> None:
        """Before a fork: wait for transactions to end, and close; not for ever."""
        if self._reading.acquire(timeout=FORK_TIMEOUT):
            self._resting.append(self._reading.release)
            with contextlib.suppress(sqlite3.Error):
                self._close_reader()
        if self._writing.acquire(timeout=FORK_TIMEOUT):
            self._resting.append(self._writing.release)
            with contextlib.suppress(sqlite3.Error):
                self._close_writer()

    def go_on(self) -> None:
        """After a fork, in the parent."""
        while self._resting:
            self._resting.pop()()

    def begin_anew(self) -> None:
        """After a fork, in the child: forget what belongs to the parent."""
        if self._writer is not None and self._waits:
            self._writer.close()
            self._writer = None
        _abandoned.extend(each for each in (self._writer, self._reader) if each is not None)
        if self._turn_fd >= 0:
            os.close(self._turn_fd)
        self._reset()
        self.bells.abandon()


def _make(path: Path) -> None:
    # Only a new file is opened here: closing a descriptor of a file that another connection of this
    # process has open would drop that connection's locks.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _open_as(path: str, mode: int) -> int:
    """Open a companion of the file, with the file's own permissions when it is new."""
    try:
        fd = os.open(path, TURN_FLAGS | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, TURN_FLAGS, mode)
    os.fchmod(fd, mode)
    return fd


def _is_ready(connection: sqlite3.Connection) -> bool:
    try:
        return schema.is_current(connection)
    except sqlite3.Error as error:
        if is_busy(error):  # somebody is making it just now
            return False
        raise


def _prepare(connection: sqlite3.Connection) -> None:
    """Make or upgrade the tables, unless somebody did meanwhile. It is our turn."""
    if not schema.is_current(connection):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        schema.upgrade(connection)
        connection.execute("COMMIT")


#: Every database of this process, for forks; and what guards adding to it.
_open: weakref.WeakSet[Database] = weakref.WeakSet()
_registering = threading.Lock()
#: The parent's connections, in a child: kept from being closed.
_abandoned: list[sqlite3.Connection] = []


def _before_fork() -> None:
    _registering.acquire()
    for database in list(_open):
        database.rest()


def _after_fork_in_parent() -> None:
    for database in list(_open):
        database.go_on()
    _registering.release()


def _after_fork_in_child() -> None:
    for database in list(_open):
        database.begin_anew()
    _registering.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
