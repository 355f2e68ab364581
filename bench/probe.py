"""Shared memory in which tasks note that they ran, and when: what it costs is about 0.3 us a task.

A file of slots, one a process. A process claims its slot under a lock at its first note, and is the
only one that writes it; the harness only reads. Times are the machine's monotonic clock, which all
of its processes share. Imported by tasks inside every system's workers, so it needs nothing but the
standard library.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Names the file in the environment of workers.
VARIABLE = "BENCH_PROBE"
#: Processes that can claim a slot.
SLOTS = 256
#: Latencies that a slot holds; later ones overwrite the oldest.
SAMPLES = 1 << 16
_PID, _COUNT, _FIRST, _LAST, _SAMPLED, _AT = range(6)
_WORDS = _AT + SAMPLES
_SIZE = SLOTS * _WORDS * 8


@dataclass(frozen=True, slots=True)
class Slot:
    """What one process noted; times in nanoseconds of the monotonic clock."""

    pid: int
    count: int
    first: int
    last: int
    samples: tuple[int, ...]


class Probe:
    """The file, mapped. A process either reads it or writes its own slot."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _SIZE)  # sparse: only touched pages take room
        self._words = memoryview(mmap.mmap(self._file, _SIZE)).cast("Q")
        self._at = -1

    def mark(self) -> None:
        """Note that a task ran now."""
        words, at = self._words, self._at
        if at < 0:
            at = self._claim()
        now = time.monotonic_ns()
        words[at + _COUNT] += 1
        words[at + _LAST] = now
        if not words[at + _FIRST]:
            words[at + _FIRST] = now

    def sample(self, nanoseconds: int) -> None:
        """Note that a task ran now, and how long it took to get here."""
        self.mark()
        words, at = self._words, self._at
        sampled = words[at + _SAMPLED]
        words[at + _AT + sampled % SAMPLES] = max(nanoseconds, 0)
        words[at + _SAMPLED] = sampled + 1

    def count(self) -> int:
        """Return how many tasks have run."""
        words = self._words
        return sum(words[at + _COUNT] for at in self._claimed())

    def slots(self) -> list[Slot]:
        """Return what each process noted, those that ran nothing left out."""
        return [slot for at in self._claimed() if (slot := self._slot(at)).count]

    def reset(self) -> None:
        """Forget everything; only while no task runs."""
        for at in self._claimed():
            for word in (_COUNT, _FIRST, _LAST, _SAMPLED):
                self._words[at + word] = 0

    def _slot(self, at: int) -> Slot:
        words = self._words
        kept = min(words[at + _SAMPLED], SAMPLES)
        samples = tuple(words[at + _AT : at + _AT + kept])
        pid, count, first, last = words[at : at + _SAMPLED].tolist()
        return Slot(pid, count, first, last, samples)

    def _claimed(self) -> Iterator[int]:
        for at in range(0, SLOTS * _WORDS, _WORDS):
            if not self._words[at + _PID]:
                return
            yield at

    def _claim(self) -> int:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            self._at = next(
                at for at in range(0, SLOTS * _WORDS, _WORDS) if not self._words[at + _PID]
            )
            self._words[self._at + _PID] = os.getpid()
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return self._at


def from_environment() -> Probe:
    """Open the probe that the harness named."""
    return Probe(Path(os.environ[VARIABLE]))
