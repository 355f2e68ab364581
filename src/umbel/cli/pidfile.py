"""The pidfile: who runs here. Written whole, taken over from the dead, refused to the second.

Who starts holds a lock on the folder while it looks and writes, so of two that start at the same
moment one sees the other. A number alone proves little: after a crash it may belong to any program,
so where the system tells, it counts only if that program is an umbel.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

#: Exit code if another worker has the pidfile or it cannot be written, as Celery's (EX_CANTCREAT).
CANNOT_CREATE = 73


class PidfileRefused(click.ClickException):
    """The pidfile cannot be had."""

    exit_code = CANNOT_CREATE


@contextmanager
def pidfile(path: Path) -> Generator[None]:
    """Hold a pidfile for the length of a block."""
    try:
        _claim(path)
    except OSError as error:
        raise PidfileRefused(f"--pidfile {path}: {error.strerror}") from error
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == pid and _read(path) == pid:
            path.unlink(missing_ok=True)


def _claim(path: Path) -> None:
    with _locked(path.parent):
        pid = _read(path)
        if pid and pid != os.getpid() and _is_umbel(pid):
            raise PidfileRefused(f"--pidfile {path}: process {pid} runs with it")
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(f"{os.getpid()}\n")
        fresh.replace(path)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> int:
    """Return the number in it; 0 = there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    return 0


def _is_umbel(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as another user
    try:
        return b"umbel" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # no /proc here
