"""Errors of sqlite3 and of the file system as ours: which file, what happened, what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from umbel.exceptions import ConnectionLost, StorageError, TransportError

_LOCKED = "a foreign program keeps it locked: end that program's transaction"

#: Primary result codes of SQLite -> what to do.
_ADVICE = {
    sqlite3.SQLITE_ERROR: "its tables are not those that this umbel makes: move the file away",
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PROTOCOL: _LOCKED,
    sqlite3.SQLITE_FULL: "no space is left: free some; nothing that was confirmed is lost",
    sqlite3.SQLITE_IOERR: "reading or writing failed, the disk may be full: see the system's log; "
    "nothing that was confirmed is lost if the disk is sound",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop all its programs, then restore it or run "
    "`sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "this is no SQLite database: choose another path, or move the file away",
    sqlite3.SQLITE_READONLY: "it cannot be written: check its owner and mode",
    sqlite3.SQLITE_PERM: "it may not be used: check its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the path, its owner and mode",
    sqlite3.SQLITE_TOOBIG: "a message or result is larger than SQLite takes (1 GB)",
}

#: After these a connection is opened anew: the file may have been mended or replaced meanwhile.
_BROKEN = frozenset(
    (
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    )
)


class translating:  # noqa: N801 -- reads as a verb where it is used
    """Turn foreign errors of a block into ours, their cause kept."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, (sqlite3.Error, OSError)) and not isinstance(error, TimeoutError):
            raise translated(error, self._path) from error
        if isinstance(error, StorageError) and str(self._path) not in str(error):
            raise StorageError(f"{self._path}: {error}") from error


def translated(error: sqlite3.Error | OSError, path: Path) -> TransportError:
    """Return our exception for one of sqlite3's or the file system's."""
    if isinstance(error, OSError):
        return StorageError(f"{path}: {error.strerror or error}")
    code = primary_code(error)
    if code is None:
        return ConnectionLost(f"{path}: {error}")
    advice = _ADVICE.get(code)
    return StorageError(f"{path}: {error}" + (f"; {advice}" if advice else ""))


def is_busy(error: BaseException) -> bool:
    """Tell whether a foreign program's lock was in the way."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_broken(error: BaseException) -> bool:
    """Tell whether the connection is of no use any more."""
    return primary_code(error) in _BROKEN


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's result code without its details; None for errors of another origin."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
