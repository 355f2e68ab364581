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
from typing import Generic, Protocol, TypeVar

from umbel.wire.names import LONGEST_ID

N = TypeVar("N", int, float, bool)

#: Longest message id in bytes that the board, and so a worker, takes.
MAX_ID = LONGEST_ID
_MAX_NAME = 127
_MAX_TEXT = 127
_TEXT = struct.Struct(f"={_MAX_TEXT + 1}p")

#: state, the fields of ``Slot``, consumer id, verdict, trouble
_SLOT_SIZE = 512
#: started, deadline, id, name
_ENTRY = struct.Struct(f"=dd{MAX_ID + 1}p{_MAX_NAME + 1}p")
_ENTRY_SIZE = 448
#: Behind an entry: the start of the run that shall end, and by which signal. Written by the node.
_ORDER = struct.Struct("=di")
#: The fields of ``Board``, the node's trouble.
_HEAD_SIZE = 256
_CONSUMER = 48
_VERDICT = _CONSUMER + _MAX_TEXT + 1
_TROUBLE = _VERDICT + _MAX_TEXT + 1
_NODE_TROUBLE = 16
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


class _Part(Protocol):
    """A part of the memory."""

    memory: mmap.mmap
    offset: int


class _Number(Generic[N]):
    """A number at a place in a part of the memory, as an attribute of that part."""

    __slots__ = ("_at", "_form")

    def __init__(self, at: int, form: str) -> None:
        self._at = at
        self._form = struct.Struct(form)

    def __get__(self, part: _Part, owner: type) -> N:
        """Read it."""
        number: N = self._form.unpack_from(part.memory, part.offset + self._at)[0]
        return number

    def __set__(self, part: _Part, value: N) -> None:
        """Write it."""
        self._form.pack_into(part.memory, part.offset + self._at, value)


class _Text:
    """A text likewise, of at most ``_MAX_TEXT`` bytes: the rest is cut off."""

    __slots__ = ("_at",)

    def __init__(self, at: int) -> None:
        self._at = at

    def __get__(self, part: _Part, owner: type) -> str:
        """Read it."""
        (text,) = _TEXT.unpack_from(part.memory, part.offset + self._at)
        return bytes(text).decode(errors="replace")

    def __set__(self, part: _Part, text: str) -> None:
        """Write it."""
        _TEXT.pack_into(part.memory, part.offset + self._at, text.encode()[:_MAX_TEXT])


class Trouble:
    """Whether servers answer one process, in its words. Written by that process, read by anyone."""

    #: Monotonic time since which a server does not answer; 0 = all do.
    since = _Number[float](0, "=d")

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self.memory = memory
        self.offset = offset

    def begin(self, since: float, why: str) -> None:
        """Say that a server does not answer since this monotonic time."""
        _OUTAGE.pack_into(self.memory, self.offset, since, why.encode(errors="replace"))

    def end(self) -> None:
        """Say that all is well."""
        self.begin(0.0, "")

    @property
    def why(self) -> str:
        """What went wrong first."""
        return bytes(_OUTAGE.unpack_from(self.memory, self.offset)[1]).decode(errors="ignore")


class Slot:
    """One child's part of the board. Written by that child, read by anyone."""

    #: The process of this slot; 0 = none yet.
    pid = _Number[int](1, "=i")
    #: How many tasks the child has ended.
    processed = _Number[int](5, "=Q")
    #: It is over a limit of tasks or memory and wants a successor.
    worn = _Number[bool](13, "=?")
    #: Monotonic time of the pump's last turn.
    turned_at = _Number[float](16, "=d")
    #: Monotonic time since which it holds no work; 0 = it holds some.
    idle_since = _Number[float](32, "=d")
    #: Monotonic time since which it was never idle for long; of use if it is not idle.
    busy_since = _Number[float](40, "=d")
    #: The consumer whose deliveries the child holds.
    consumer_id = _Text(_CONSUMER)
    #: Why the supervisor ended the child; "" = it died by itself.
    verdict = _Text(_VERDICT)

    def __init__(self, memory: mmap.mmap, offset: int, entries: int) -> None:
        self.memory = memory
        self.offset = offset
        self._flags = offset + _SLOT_SIZE
        self._first = self._flags + entries
        self.entries = entries
        self.trouble = Trouble(memory, offset + _TROUBLE)

    @property
    def state(self) -> SlotState:
        """Where the slot is in its life."""
        return SlotState(self.memory[self.offset])

    @state.setter
    def state(self, state: SlotState) -> None:
        self.memory[self.offset] = state

    def clear(self) -> None:
        """Make the slot as new."""
        for index in self._used():
            self.end(index)
        self.memory[self.offset : self._flags] = bytes(_SLOT_SIZE)

    def begin(self, index: int, running: tuple[bytes, bytes, float, float]) -> None:
        """Say that entry ``index`` runs (id, name, started, deadline)."""
        at = self._first + index * _ENTRY_SIZE
        ident, name, started, deadline = running
        _ENTRY.pack_into(self.memory, at, started, deadline, ident, name)
        self.memory[self._flags + index] = 1

    def end(self, index: int) -> None:
        """Say that entry ``index`` runs nothing."""
        self.memory[self._flags + index] = 0

    @property
    def runs(self) -> bool:
        """Whether something runs."""
        return 1 in self.memory[self._flags : self._first]

    def running(self) -> list[Running]:
        """Return what runs."""
        return [self._entry(index) for index in self._used()]

    def _entry(self, index: int) -> Running:
        at = self._first + index * _ENTRY_SIZE
        started, deadline, ident, name = _ENTRY.unpack_from(self.memory, at)
        meant, signum = _ORDER.unpack_from(self.memory, at + _ENTRY.size)
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
        _ORDER.pack_into(self.memory, at, task.started, signum)

    def keep_only(self, ids: Collection[str]) -> None:
        """End the entries of all others. For the supervisor, when the process is dead."""
        for index in self._used():
            at = self._first + index * _ENTRY_SIZE
            if _ENTRY.unpack_from(self.memory, at)[2].decode() not in ids:
                self.end(index)

    def _used(self) -> list[int]:
        flags = self.memory[self._flags : self._first]
        return [index for index, used in enumerate(flags) if used] if 1 in flags else []


class Board:
    """All slots. Made by the supervisor before it forks."""

    offset = 0
    #: Monotonic time of the node's last turn; 0 = it had none.
    node_turned_at = _Number[float](0, "=d")
    #: Monotonic time at which some child was last seen to consume; the supervisor's.
    consumed_at = _Number[float](8, "=d")

    def __init__(self, slots: int, *, entries: int) -> None:
        size = _SLOT_SIZE + entries * (1 + _ENTRY_SIZE)
        self.memory = mmap.mmap(-1, _HEAD_SIZE + slots * size)
        self.slots = tuple(Slot(self.memory, _HEAD_SIZE + i * size, entries) for i in range(slots))
        self.node_trouble = Trouble(self.memory, _NODE_TROUBLE)

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
