"""The board: shared memory in which each child says what it is doing.

A child writes its own slot, supervisor and node read it; while the child lives nobody else writes,
except the node, which may order the end of a run in a place of its own.
When it dies the slot still says which consumer it was and what was running, so the supervisor can
mark it a grave and the node can bury it: charge the task that was running, give back the rest. It
is the truth for hard time limits, for listing what is active, and for the question "which task did
the dead child run?".

An entry's flag is written last and cleared first, so a reader never sees half an entry that
counts; flags lie side by side, so that looking at them all touches few pages. Ids are at most 255
bytes (AMQP's limit for a correlation id); longer ones are refused before they run. Untouched pages
of the anonymous map cost nothing, so the board may be generous.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from umbel.wire.names import LONGEST_ID

#: Longest message id in bytes that the board, and so a worker, takes.
MAX_ID = LONGEST_ID
_MAX_NAME = 127
_MAX_TEXT = 127

#: state, pid, processed, turned_at, idle_since, busy_since, worn, consumer id, verdict, trouble
_SLOT_SIZE = 512
#: started, deadline, id, name
_ENTRY = struct.Struct(f"=dd{MAX_ID + 1}p{_MAX_NAME + 1}p")
_ENTRY_SIZE = 448
#: Behind an entry: the start of the run that shall end, and by which signal. Written by the node.
_ORDER = struct.Struct("=di")
#: node_turned_at, consumed_at, the node's trouble
_HEAD_SIZE = 256
_TIME = struct.Struct("=d")
_PID, _PROCESSED, _WORN = 1, 5, 13
_TURNED_AT, _IDLE_SINCE, _BUSY_SINCE = 16, 32, 40
_CONSUMER = 48
_VERDICT = _CONSUMER + _MAX_TEXT + 1
_TROUBLE = _VERDICT + _MAX_TEXT + 1
_NODE_TROUBLE = 2 * _TIME.size
#: since when, why
_OUTAGE = struct.Struct("=d200p")


class SlotState(IntEnum):
    """The life of a slot."""

    FREE = 0
    STARTING = 1
    #: Could receive, and waits for the one before it to leave.
    STANDBY = 2
    READY = 3
    #: Takes nothing new, finishes what it runs.
    STOPPING = 4
    #: Runs nothing any more; is giving back what it holds.
    SPENT = 5
    #: Its process is dead and not yet buried.
    GRAVE = 6


#: States of a process that lives and has a session with the broker.
LIVING = (SlotState.STANDBY, SlotState.READY, SlotState.STOPPING, SlotState.SPENT)


@dataclass(frozen=True, slots=True)
class Running:
    """One task that a child is running."""

    id: str
    name: str
    #: Monotonic time.
    started: float
    #: Monotonic time at which the supervisor ends the process; 0 = never.
    deadline: float
    #: Its place in the slot.
    index: int
    #: The signal that shall end it; 0 = none.
    ordered: int = 0


class Trouble:
    """Whether servers answer one process, in its words. Written by that process, read by anyone."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._offset = offset

    def begin(self, since: float, why: str) -> None:
        """Say that a server does not answer since this monotonic time."""
        _OUTAGE.pack_into(self._memory, self._offset, since, why.encode(errors="replace"))

    def end(self) -> None:
        """Say that all is well."""
        self.begin(0.0, "")

    @property
    def since(self) -> float:
        """Monotonic time since which a server does not answer; 0 = all do."""
        return float(_TIME.unpack_from(self._memory, self._offset)[0])

    @property
    def why(self) -> str:
        """What went wrong first."""
        return bytes(_OUTAGE.unpack_from(self._memory, self._offset)[1]).decode(errors="ignore")


class Slot:
    """One child's part of the board. Written by that child, read by anyone."""

    def __init__(self, memory: mmap.mmap, offset: int, entries: int) -> None:
        self._memory = memory
        self._offset = offset
        self._flags = offset + _SLOT_SIZE
        self._first = self._flags + entries
        self.entries = entries
        self.trouble = Trouble(memory, offset + _TROUBLE)

    @property
    def state(self) -> SlotState:
        """Where the slot is in its life."""
        return SlotState(self._memory[self._offset])

    @state.setter
    def state(self, state: SlotState) -> None:
        self._memory[self._offset] = state

    @property
    def pid(self) -> int:
        """The process of this slot; 0 = none yet."""
        return int(struct.unpack_from("=i", self._memory, self._offset + _PID)[0])

    @pid.setter
    def pid(self, pid: int) -> None:
        struct.pack_into("=i", self._memory, self._offset + _PID, pid)

    @property
    def processed(self) -> int:
        """How many tasks the child has ended."""
        return int(struct.unpack_from("=Q", self._memory, self._offset + _PROCESSED)[0])

    @processed.setter
    def processed(self, count: int) -> None:
        struct.pack_into("=Q", self._memory, self._offset + _PROCESSED, count)

    @property
    def worn(self) -> bool:
        """It is over a limit of tasks or memory and wants a successor."""
        return bool(self._memory[self._offset + _WORN])

    @worn.setter
    def worn(self, worn: bool) -> None:
        self._memory[self._offset + _WORN] = worn

    @property
    def turned_at(self) -> float:
        """Monotonic time of the pump's last turn."""
        return self._time(_TURNED_AT)

    @turned_at.setter
    def turned_at(self, at: float) -> None:
        _TIME.pack_into(self._memory, self._offset + _TURNED_AT, at)

    @property
    def idle_since(self) -> float:
        """Monotonic time since which it holds no work; 0 = it holds some."""
        return self._time(_IDLE_SINCE)

    @idle_since.setter
    def idle_since(self, at: float) -> None:
        _TIME.pack_into(self._memory, self._offset + _IDLE_SINCE, at)

    @property
    def busy_since(self) -> float:
        """Monotonic time since which it was never idle for long; of use if it is not idle."""
        return self._time(_BUSY_SINCE)

    @busy_since.setter
    def busy_since(self, at: float) -> None:
        _TIME.pack_into(self._memory, self._offset + _BUSY_SINCE, at)

    @property
    def consumer_id(self) -> str:
        """The consumer whose deliveries the child holds."""
        return self._text(_CONSUMER)

    @consumer_id.setter
    def consumer_id(self, consumer_id: str) -> None:
        self._write(_CONSUMER, consumer_id)

    @property
    def verdict(self) -> str:
        """Why the supervisor ended the child; "" = it died by itself."""
        return self._text(_VERDICT)

    @verdict.setter
    def verdict(self, verdict: str) -> None:
        self._write(_VERDICT, verdict)

    def clear(self) -> None:
        """Make the slot as new."""
        for index in self._used():
            self.end(index)
        self._memory[self._offset : self._flags] = bytes(_SLOT_SIZE)

    def begin(self, index: int, running: tuple[bytes, bytes, float, float]) -> None:
        """Say that entry ``index`` runs (id, name, started, deadline)."""
        at = self._first + index * _ENTRY_SIZE
        ident, name, started, deadline = running
        _ENTRY.pack_into(self._memory, at, started, deadline, ident, name)
        self._memory[self._flags + index] = 1

    def end(self, index: int) -> None:
        """Say that entry ``index`` runs nothing."""
        self._memory[self._flags + index] = 0

    @property
    def runs(self) -> bool:
        """Whether something runs."""
        return 1 in self._memory[self._flags : self._first]

    def running(self) -> list[Running]:
        """Return what runs."""
        return [self._entry(index) for index in self._used()]

    def _entry(self, index: int) -> Running:
        at = self._first + index * _ENTRY_SIZE
        started, deadline, ident, name = _ENTRY.unpack_from(self._memory, at)
        meant, signum = _ORDER.unpack_from(self._memory, at + _ENTRY.size)
        return Running(
            ident.decode(),
            name.decode(errors="replace"),
            started,
            deadline,
            index,
            signum if meant == started else 0,
        )

    def order(self, task: Running, signum: int) -> None:
        """Say that this run shall end by a signal. For the node; void when the run is over."""
        at = self._first + task.index * _ENTRY_SIZE + _ENTRY.size
        _ORDER.pack_into(self._memory, at, task.started, signum)

    def keep_only(self, ids: Collection[str]) -> None:
        """End the entries of all others. For the supervisor, when the process is dead."""
        for index in self._used():
            at = self._first + index * _ENTRY_SIZE
            if _ENTRY.unpack_from(self._memory, at)[2].decode() not in ids:
                self.end(index)

    def _time(self, at: int) -> float:
        found: tuple[float] = _TIME.unpack_from(self._memory, self._offset + at)
        return found[0]

    def _used(self) -> list[int]:
        flags = self._memory[self._flags : self._first]
        return [index for index, used in enumerate(flags) if used] if 1 in flags else []

    def _text(self, at: int) -> str:
        (text,) = struct.unpack_from(f"={_MAX_TEXT + 1}p", self._memory, self._offset + at)
        return bytes(text).decode(errors="replace")

    def _write(self, at: int, text: str) -> None:
        data = text.encode()[:_MAX_TEXT]
        struct.pack_into(f"={_MAX_TEXT + 1}p", self._memory, self._offset + at, data)


class Board:
    """All slots. Made by the supervisor before it forks."""

    def __init__(self, slots: int, *, entries: int) -> None:
        size = _SLOT_SIZE + entries * (1 + _ENTRY_SIZE)
        self._memory = mmap.mmap(-1, _HEAD_SIZE + slots * size)
        self.slots = tuple(Slot(self._memory, _HEAD_SIZE + i * size, entries) for i in range(slots))
        self.node_trouble = Trouble(self._memory, _NODE_TROUBLE)

    @property
    def node_turned_at(self) -> float:
        """Monotonic time of the node's last turn; 0 = it had none."""
        return float(_TIME.unpack_from(self._memory, 0)[0])

    @node_turned_at.setter
    def node_turned_at(self, at: float) -> None:
        _TIME.pack_into(self._memory, 0, at)

    @property
    def consumed_at(self) -> float:
        """Monotonic time at which some child was last seen to consume; the supervisor's."""
        return float(_TIME.unpack_from(self._memory, _TIME.size)[0])

    @consumed_at.setter
    def consumed_at(self, at: float) -> None:
        _TIME.pack_into(self._memory, _TIME.size, at)

    def troubles(self) -> list[Trouble]:
        """Return the outages that living processes see."""
        dead = SlotState.FREE, SlotState.GRAVE
        seen = [slot.trouble for slot in self.slots if slot.state not in dead]
        return [trouble for trouble in (*seen, self.node_trouble) if trouble.since]

    def free(self) -> Slot | None:
        """Return a slot nobody uses, or None."""
        return next((slot for slot in self.slots if slot.state is SlotState.FREE), None)

    def in_state(self, *wanted: SlotState) -> list[Slot]:
        """Return the slots in one of these states."""
        return [slot for slot in self.slots if slot.state in wanted]
