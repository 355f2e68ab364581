"""Wake-ups between processes without polling: a few shared bytes, and a named pipe each.

Purpose. An idle consumer or watch sleeps in ``poll`` on its own pipe. Whoever commits something for
it writes one byte into that pipe. While nobody is idle a committer only looks for a byte in a small
shared map, which costs about 200 ns and no system call.

    <file>-bells      one state byte per slot, then per slot what its owner waits for
    <file>-bells.d/   one pipe per slot; unlike a socket's, a pipe's path may be long

Owners. A slot belongs to the ``Bell`` that claimed it as long as somebody reads its pipe: one whose
pipe has no reader is free again, which makes a dead process's slot reusable without looking at pids
(they mean nothing across containers). Claims are made under a ``flock`` on the map's file.

Protocol. The owner sets its state to idle, *then* looks at the database, then sleeps. The committer
commits, *then* looks for idle slots, both while it has the writers' turn, so that two committers do
not count on the same consumer. It clears the states of as many consumers as there are new messages
and rings them after its turn. A consumer that finds its state cleared looks again before it
returns, whatever else made it return, so that no ring is wasted.

Guarantee: none. A ring is lost with the process that was rung; sleepers look by themselves about
once a second. Where the map or the pipes cannot be made, a ``Bell`` polls in short, growing steps.

Rejected: datagram sockets (paths of at most 104 bytes on macOS), POSIX semaphores and futexes (they
cannot be waited for together with the pipe of ``wake``), inotify on the log (wakes everybody at
every commit).
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
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from zlib import crc32

#: Slots in the map; whoever finds none free polls.
SLOTS = 256
#: What a slot's owner waits for: at most so many numbers; more mean "anything".
WANTS = 61
#: States of a slot; the last two are those of idle owners, and the kinds of bells.
_FREE, _CLAIMED, CONSUMER, WATCH = 0, 1, 2, 3
_IDLE_CONSUMER, _IDLE_WATCH = bytes((CONSUMER,)), bytes((WATCH,))
_STATES_AT, _STATES_END = 64, 64 + SLOTS
_RECORDS_AT, _RECORD = 1024, 256
_SIZE = _RECORDS_AT + SLOTS * _RECORD
#: The first bytes of the map: which layout it has.
_MAGIC = b"umbel bells 1\n"
_COUNT = struct.Struct("=I")
#: Seconds between looks when there is no pipe to be rung by.
_POLL_FIRST, _POLL_LAST = 0.002, 0.1


class Bells:
    """The map beside one file: rings others' bells and has slots for one's own. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._map_path = f"{path}-bells"
        self._pipes = Path(f"{path}-bells.d")
        self._mode = 0o600
        self._fd = -1
        self._states: mmap.mmap | None = None
        self._changing = threading.Lock()
        self._own: weakref.WeakSet[Bell] = weakref.WeakSet()

    def open(self, mode: int) -> None:
        """Open the map, with the permissions of the file it stands beside; failing is no error."""
        with self._changing:
            self._mode = mode
            self._close()
            with contextlib.suppress(OSError):
                self._open()

    def close(self) -> None:
        """Close the map; who has a bell of it claims another when the map is open again."""
        with self._changing:
            self._close()

    def __del__(self) -> None:
        self._close()

    def abandon(self) -> None:
        """Let go of the parent's map and pipes in a forked child."""
        self._changing = threading.Lock()
        self._close()
        for bell in list(self._own):
            bell.abandon()

    # --- ringing

    def claim(self, queued: Mapping[int, int], stored: Collection[str]) -> list[int]:
        """Choose the sleepers that a commit concerns and mark them awake; return their slots.

        ``queued`` are new messages by queue, ``stored`` the task ids of new results.
        """
        states = self._states
        chosen: list[int] = []
        if states is None:
            return chosen
        with contextlib.suppress(ValueError):  # another thread closes the map
            if queued and states.find(_IDLE_CONSUMER, _STATES_AT, _STATES_END) >= 0:
                chosen += _sleepers(states, _IDLE_CONSUMER, dict(queued))
            if stored and states.find(_IDLE_WATCH, _STATES_AT, _STATES_END) >= 0:
                chosen += _sleepers(states, _IDLE_WATCH, dict.fromkeys(map(hash_of, stored), SLOTS))
            for slot in chosen:
                states[_STATES_AT + slot] = _CLAIMED
        return chosen

    def ring(self, slots: Iterable[int]) -> bool:
        """Wake the owners of these slots; return whether all were there to be woken."""
        return sum(not self._ring(slot) for slot in slots) == 0

    def _ring(self, slot: int) -> bool:
        try:
            fd = os.open(self.pipe(slot), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(fd, b"r")
        except BlockingIOError:
            pass  # a full pipe wakes as well
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    # --- slots

    def take_slot(self, bell: Bell) -> tuple[mmap.mmap, int, int] | None:
        """Claim a slot; return the map, the slot and its pipe. None if that cannot be done."""
        with self._changing, contextlib.suppress(OSError):
            states = self._states or self._open()
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                for slot in range(SLOTS):
                    if states[_STATES_AT + slot] == _FREE or not self._is_read(slot):
                        pipe = self._make_pipe(slot)
                        states[_STATES_AT + slot] = _CLAIMED
                        self._own.add(bell)
                        return states, slot, pipe
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        return None

    def is_open(self, states: mmap.mmap | None) -> bool:
        """Tell whether this map is still the one in use."""
        return states is not None and states is self._states

    def pipe(self, slot: int) -> Path:
        """Return the path of a slot's pipe."""
        return self._pipes / str(slot)

    def _is_read(self, slot: int) -> bool:
        try:
            os.close(os.open(self.pipe(slot), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def _make_pipe(self, slot: int) -> int:
        path = self.pipe(slot)
        path.unlink(missing_ok=True)
        os.mkfifo(path, self._mode)
        path.chmod(self._mode)
        # Open for writing too, so that it is never at its end, and ``wake`` can use it.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    # --- the map; the caller holds ``_changing``

    def _open(self) -> mmap.mmap:
        with contextlib.suppress(FileExistsError):
            self._pipes.mkdir()
            self._pipes.chmod(self._mode | (self._mode & 0o444) >> 2)
        fd = os.open(self._map_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.pread(fd, len(_MAGIC), 0) != _MAGIC or os.fstat(fd).st_size != _SIZE:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, _SIZE)
                os.pwrite(fd, _MAGIC, 0)
                os.fchmod(fd, self._mode)
            fcntl.flock(fd, fcntl.LOCK_UN)
            states = mmap.mmap(fd, _SIZE)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._states = fd, states
        return states

    def _close(self) -> None:
        states, self._states = self._states, None
        if states is not None:
            states.close()
            os.close(self._fd)


def hash_of(task_id: str) -> int:
    """Return what a watch is rung by: 32 bits, signed. The id is as ``storable`` has it."""
    return crc32(task_id.encode()) - 0x80000000


def _sleepers(states: mmap.mmap, state: bytes, offered: dict[int, int]) -> Iterator[int]:
    """Return the idle slots that want one of the offered numbers, using these up."""
    at = states.find(state, _STATES_AT, _STATES_END)
    while at >= 0:
        slot = at - _STATES_AT
        for number in _wanted(states, slot, offered):
            if offered.get(number, 0) > 0:
                offered[number] -= 1
                yield slot
                break
        at = states.find(state, at + 1, _STATES_END)


def _wanted(states: mmap.mmap, slot: int, offered: Mapping[int, int]) -> Iterable[int]:
    at = _RECORDS_AT + slot * _RECORD
    (count,) = _COUNT.unpack_from(states, at)
    if count > WANTS:
        return tuple(offered)
    return struct.unpack_from(f"={count}i", states, at + _COUNT.size)


class _Pipe:
    """Both ends of a pipe; closed with its last reference, so that no ``wake`` hits another.

    Without descriptors nothing is ever heard.
    """

    __slots__ = ("_poll", "read_fd", "write_fd")

    def __init__(self, read_fd: int = -1, write_fd: int = -1) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        # Not select.select, which knows no descriptors above 1023.
        self._poll = select.poll()
        if read_fd >= 0:
            self._poll.register(read_fd, select.POLLIN)

    def listen(self, timeout: float) -> None:
        """Wait for bytes, and take them."""
        if self._poll.poll(max(0.0, timeout) * 1000.0):
            with contextlib.suppress(BlockingIOError):
                os.read(self.read_fd, 4096)

    def __del__(self) -> None:
        for fd in {self.read_fd, self.write_fd} - {-1}:
            os.close(fd)


class Bell:
    """One sleeper's slot and pipe. Its owner sets and waits; all may ``wake`` and ``nudge``."""

    def __init__(self, bells: Bells, kind: int) -> None:
        self._bells = bells
        self._kind = kind
        self._states: mmap.mmap | None = None
        self._slot = -1
        self._wants: list[int] = []
        self._woken = False
        self._pause = _POLL_FIRST
        # The ends of a pipe of one's own until a slot is claimed; after that, of the slot's.
        self._pipe = _own_pipe()
        self._closed = False

    def wants(self, numbers: Iterable[int]) -> None:
        """Say what to be rung for: ids of queues, or hashes of task ids (32 bits, signed)."""
        self._wants = list(itertools.islice(numbers, WANTS + 1))
        states = self._current()
        if states is not None:
            self._write_wants(states)

    def idle(self) -> None:
        """From now on ring me. To be followed by a last look at the database."""
        self._exchange(self._current() or self._claim(), self._kind)

    def busy(self) -> bool:
        """Ring me no more; return whether I was rung."""
        return self._exchange(self._current(), _CLAIMED) == _CLAIMED

    def _exchange(self, states: mmap.mmap | None, state: int) -> int:
        """Set the slot's state and return what it was."""
        before = self._kind
        if states is not None:
            with contextlib.suppress(ValueError):  # another thread closes the map
                before = states[_STATES_AT + self._slot]
                states[_STATES_AT + self._slot] = state
        return before

    def wait(self, timeout: float) -> None:
        """Sleep until rung or woken, at most ``timeout`` seconds."""
        if self._current() is None:
            timeout, self._pause = min(timeout, self._pause), min(self._pause * 1.5, _POLL_LAST)
        self._pipe.listen(0.0 if self._woken else timeout)

    def found(self) -> None:
        """Something came: where this polls, look often again."""
        self._pause = _POLL_FIRST

    def wake(self) -> None:
        """End the wait, or the next one. Any thread, and signal handlers."""
        self._woken = True
        self.nudge()

    def nudge(self) -> None:
        """End the wait as if rung, so that the owner looks again. Any thread."""
        pipe = self._pipe
        with contextlib.suppress(OSError):
            os.write(pipe.write_fd, b"r")

    def woken(self) -> bool:
        """Tell whether ``wake`` was called, once."""
        woken, self._woken = self._woken, False
        return woken

    def close(self) -> None:
        """Free the slot and the pipe. Idempotent."""
        self._closed = True
        self._exchange(self._current(), _FREE)
        self._states = None
        self._pipe = _Pipe()

    def abandon(self) -> None:
        """Let go, in a forked child, of a pipe that is the parent's."""
        self._states = None
        self._pipe = _Pipe() if self._closed else _own_pipe()

    def _current(self) -> mmap.mmap | None:
        return self._states if self._bells.is_open(self._states) else None

    def _claim(self) -> mmap.mmap | None:
        taken = None if self._closed else self._bells.take_slot(self)
        if taken is None:
            return None
        self._states, self._slot, fd = taken
        self._pipe = _Pipe(fd, fd)
        self._write_wants(self._states)
        return self._states

    def _write_wants(self, states: mmap.mmap) -> None:
        at, count = _RECORDS_AT + self._slot * _RECORD, len(self._wants)
        if count <= WANTS:
            struct.pack_into(f"={count}i", states, at + _COUNT.size, *self._wants)
        _COUNT.pack_into(states, at, count)


def _own_pipe() -> _Pipe:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    return _Pipe(read_fd, write_fd)
