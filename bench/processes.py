"""Processes that the harness starts: ended by their ids, with deadlines, their output in a file.

CPU time and memory come from /proc; elsewhere than on Linux they are not a number.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Seconds that a process has to end by itself.
PATIENCE = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _CPU = 1, slice(11, 15)


class MeasureError(Exception):
    """A process died, or did not answer in time; the end of its output is in the text."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    #: What asks it to end, finishing what it holds.
    stop: signal.Signals = signal.SIGTERM


class Process:
    """A running process and whatever it forks. Owned by the harness's main thread."""

    def __init__(self, command: Command, *, piped: bool = False) -> None:
        self.command = command
        pipe = subprocess.PIPE if piped else subprocess.DEVNULL
        with command.log.open("ab") as log:
            self.popen = subprocess.Popen(
                command.argv,
                cwd=command.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **command.environment},
                stdin=pipe,
                stdout=pipe if piped else log,
                stderr=log,
                start_new_session=True,
            )

    def tree(self) -> list[int]:
        """Return the ids of the process and its living descendants."""
        return tree(self.popen.pid)

    def check(self) -> None:
        """Raise if it died."""
        code = self.popen.poll()
        if code is not None:
            raise MeasureError(f"{self.command.argv} ended with {code}: {self.tail()}")

    def tail(self) -> str:
        """Return the end of its output."""
        return self.command.log.read_text(errors="replace")[-2000:]

    def end(self) -> None:
        """Ask it to end; kill what is left of it, child by child, when its time is over."""
        family = self.tree()
        if self.popen.poll() is None:
            self.popen.send_signal(self.command.stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(PATIENCE)
        for pid in {*family, *self.tree()}:
            if pid != self.popen.pid and _session(pid) == self.popen.pid:
                _kill(pid)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(PATIENCE)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def tree(pid: int) -> list[int]:
    """Return a process's id and those of its living descendants."""
    children: dict[int, list[int]] = {}
    for each, fields in _stats():
        children.setdefault(int(fields[_PARENT]), []).append(each)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its descendants, and those of them that have ended."""
    family = set(tree(pid))
    ticks = [sum(map(int, fields[_CPU])) for each, fields in _stats() if each in family]
    return sum(ticks) / _TICKS if ticks else math.nan


def proportional_memory(pid: int) -> float:
    """Return a process's memory in MiB, shared pages divided among those that share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return math.nan
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every process's id and what /proc/<id>/stat says after its name."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
