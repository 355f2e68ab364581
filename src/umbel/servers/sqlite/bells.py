"""Wake-ups between processes without polling: a few shared bytes and a named pipe each.

Purpose. An idle consumer or watch sleeps in ``select`` on its own pipe. Whoever commits something for
it writes one byte into that pipe. While nobody is idle a publisher only looks for a byte in a small
shared map, which costs about 100 ns and no system call.

    <file>-bells      one state byte per slot, then per slot what its owner waits for
    <file>-bells.d/   one pipe per slot; a pipe's path has no length limit, unlike a socket's

Owners. A slot belongs to the ``Bell`` that claimed it, as long as somebody reads its pipe: a slot whose
pipe has no reader is free again, which makes a dead process's slot reusable without looking at pids
(they mean nothing across containers). Claims are made under a ``flock`` on the map's file.

Protocol. The owner sets its state to idle, *then* looks at the database, then sleeps. The committer
commits, *then* looks for idle slots, all while it holds the writers' lock, so that two committers never
count on the same consumer. It clears the state of as many consumers as there are new messages and
rings them after it has released the lock.

Guarantee: none. A ring may be lost with the process that was rung; sleepers therefore look at
``PRAGMA data_version`` about once a second. If the map or the pipes cannot be made, ``Bell`` falls
back to sleeping in short, growing steps.

Rejected: datagram sockets (a path limit of 104 bytes on macOS), POSIX semaphores and futexes (not in
the standard library, cannot be waited for together with a signal's wake-up), inotify on the log (wakes
everybody at every commit).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import select
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

#: Slots in the map; whoever finds none free polls.
SLOTS = 256
#: What a slot's owner waits for: at most so many numbers; more mean "anything".
WANTS = 61
_FREE, _CLAIMED, CONSUMER, WATCH = 0, 1, 2, 3
_STATES_AT = 64
_RECORDS_AT = 1024
_RECORD = 256
_SIZE = _RECORDS_AT + SLOTS * _RECORD
#: The first bytes of the map: which layout it has.
_MAGIC = b"umbel bells 1\n"
_COUNT = struct.Struct("=I")
_IDLE_CONSUMER, _IDLE_WATCH = bytes((CONSUMER,)), bytes((WATCH,))
#: Seconds of sleep between looks when there is no pipe to be rung by.
_POLL_FIRST, _POLL_LAST = 0.002, 0.1


class Bells:
    """The map beside one file. Rings others' bells, and hands out bells of one's own. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._map_path = f"{path}-bells"
        self._pipes = f"{path}-bells.d"
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._broken = False
        self._opening = threading.Lock()

    def claim(self, queued: dict[int, int], stored: list[int]) -> list[int]:
        """Choose the sleepers that a commit concerns and mark them awake; return their slots."""
        states = self._open()
        if states is None:
            return []
        chosen: list[int] = []
        if queued and states.find(_IDLE_CONSUMER, _STATES_AT, _STATES_AT + SLOTS) >= 0:
            left = dict(queued)
            for slot in self._idle(states, _IDLE_CONSUMER):
                wanted = self._wanted(states, slot, left)
                if wanted is not None:
                    left[wanted] -= 1 if left[wanted] > 0 else 0
                    chosen.append(slot)
        if stored and states.find(_IDLE_WATCH, _STATES_AT, _STATES_AT + SLOTS) >= 0:
            hashes = dict.fromkeys(stored, -1)
            chosen += [
                slot
                for slot in self._idle(states, _IDLE_WATCH)
                if self._wanted(states, slot, hashes) is not None
            ]
        for slot in chosen:
            states[_STATES_AT + slot] = _CLAIMED
        return chosen

    def ring(self, slots: Iterable[int]) -> None:
        """Write a byte into each slot's pipe; a pipe without a reader belongs to a dead process."""
        for slot in slots:
            with contextlib.suppress(OSError):
                fd = os.open(self._pipe(slot), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(fd, b"r")
                finally:
                    os.close(fd)

    def bell(self, kind: int) -> Bell:
        """Claim a slot; the bell polls if there is none."""
        states = self._open()
        if states is not None:
            with self._opening, contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                try:
                    return self._claim_slot(states, kind)
                finally:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
        return Bell(None, -1, kind)

    def close(self) -> None:
        """Close the map; the next use opens it again."""
        states, self._map = self._map, None
        if states is not None:
            states.close()
            os.close(self._fd)
        self._broken = False

    def abandon(self) -> None:
        """Let go of the map in a forked child, whose own use opens it again."""
        self._opening = threading.Lock()
        self.close()

    def _open(self) -> mmap.mmap | None:
        if self._map is None and not self._broken:
            with self._opening:
                if self._map is None:
                    try:
                        self._map = self._open_map()
                    except OSError:
                        self._broken = True
        return self._map

    def _open_map(self) -> mmap.mmap:
        os.makedirs(self._pipes, mode=0o700, exist_ok=True)
        fd = os.open(self._map_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.pread(fd, len(_MAGIC), 0) != _MAGIC:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, _SIZE)
                os.pwrite(fd, _MAGIC, 0)
            fcntl.flock(fd, fcntl.LOCK_UN)
            states = mmap.mmap(fd, _SIZE)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return states

    def _idle(self, states: mmap.mmap, state: bytes) -> Iterable[int]:
        end = _STATES_AT + SLOTS
        at = states.find(state, _STATES_AT, end)
        while at >= 0:
            yield at - _STATES_AT
            at = states.find(state, at + 1, end)

    def _wanted(self, states: mmap.mmap, slot: int, offered: dict[int, int]) -> int | None:
        """Return which of the offered numbers this slot waits for; None = none that is left."""
        at = _RECORDS_AT + slot * _RECORD
        (count,) = _COUNT.unpack_from(states, at)
        if count > WANTS:
            return next((number for number, left in offered.items() if left), None)
        for number in struct.unpack_from(f"={count}i", states, at + _COUNT.size):
            if offered.get(number):
                return int(number)
        return None

    def _claim_slot(self, states: mmap.mmap, kind: int) -> Bell:
        for slot in range(SLOTS):
            if states[_STATES_AT + slot] == _FREE or not self._is_read(slot):
                path = self._pipe(slot)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                os.mkfifo(path, 0o600)
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                states[_STATES_AT + slot] = _CLAIMED
                _COUNT.pack_into(states, _RECORDS_AT + slot * _RECORD, 0)
                return Bell(self, slot, kind, fd)
        raise OSError("no slot is free")

    def _is_read(self, slot: int) -> bool:
        try:
            os.close(os.open(self._pipe(slot), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def _pipe(self, slot: int) -> str:
        return f"{self._pipes}/{slot}"


class Bell:
    """One sleeper's slot and pipe. Its owner sets and waits; ``wake`` may be called from anywhere."""

    def __init__(self, bells: Bells | None, slot: int, kind: int, pipe: int = -1) -> None:
        self._bells = bells
        self._slot = slot
        self._kind = kind
        self._ends: tuple[int, int] = (pipe, pipe) if pipe >= 0 else _own_pipe()
        self._woken = False
        self._poll = _POLL_FIRST

    @property
    def polls(self) -> bool:
        """Nobody can ring this bell: its owner must look again and again."""
        return self._bells is None

    def wants(self, numbers: Iterable[int]) -> None:
        """Say what to be rung for: ids of queues, or hashes of task ids (32 bits, signed)."""
        states = self._states()
        if states is None:
            return
        listed = list(itertools.islice(numbers, WANTS + 1))
        at = _RECORDS_AT + self._slot * _RECORD
        if len(listed) <= WANTS:
            struct.pack_into(f"={len(listed)}i", states, at + _COUNT.size, *listed)
        _COUNT.pack_into(states, at, len(listed))

    def idle(self) -> None:
        """From now on ring me. To be followed by a last look at the database."""
        states = self._states()
        if states is not None:
            states[_STATES_AT + self._slot] = self._kind

    def busy(self) -> bool:
        """Ring me no more; return whether I was rung."""
        states = self._states()
        if states is None:
            return False
        rung = states[_STATES_AT + self._slot] != self._kind
        states[_STATES_AT + self._slot] = _CLAIMED
        return rung

    def wait(self, timeout: float) -> None:
        """Sleep until rung or woken, at most ``timeout`` seconds."""
        if self.polls:
            timeout, self._poll = min(timeout, self._poll), min(self._poll * 1.5, _POLL_LAST)
        if select.select([self._ends[0]], [], [], max(0.0, timeout))[0]:
            with contextlib.suppress(BlockingIOError):
                if b"w" in os.read(self._ends[0], 4096):
                    self._woken = True

    def found(self) -> None:
        """Something came: when polling, look often again."""
        self._poll = _POLL_FIRST

    def wake(self) -> None:
        """End the wait, or the next one. Any thread, and signal handlers."""
        with contextlib.suppress(OSError):
            os.write(self._ends[1], b"w")

    def nudge(self) -> None:
        """End the wait as if rung, so that the owner looks again. Any thread."""
        with contextlib.suppress(OSError):
            os.write(self._ends[1], b"r")

    def woken(self) -> bool:
        """Tell whether ``wake`` was called, once."""
        if not self._woken and select.select([self._ends[0]], [], [], 0.0)[0]:
            self.wait(0.0)
        woken, self._woken = self._woken, False
        return woken

    def close(self) -> None:
        """Free the slot. Idempotent."""
        states, self._bells = self._states(), None
        if states is not None:
            states[_STATES_AT + self._slot] = _FREE
        ends, self._ends = self._ends, (-1, -1)
        for fd in {each for each in ends if each >= 0}:
            os.close(fd)

    def _states(self) -> mmap.mmap | None:
        return self._bells._open() if self._bells is not None else None  # noqa: SLF001 -- one module


def _own_pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends
