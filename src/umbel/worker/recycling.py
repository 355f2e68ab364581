"""Replacing worn children: when a child has done enough, and how its successor takes its place.

A child that was handed ``worker_max_tasks_per_child`` tasks, or whose process grew over
``worker_max_memory_per_child``, is *worn*: it receives no more and works off what it holds. The
window holds about as much work as it takes to start a process, so its slot hardly stands empty:

    worn child       successor
    ready, worn
                     starting    forked when the first was seen worn
                     standby     connected; receives nothing yet
    stopping                     told to leave: finishes what it runs, gives back the rest
    spent            ready       told to begin when the first runs nothing any more

A process whose memory grows on while it works off what it holds gives that back before its
successor is there: then the ceiling matters more than the slot. Its lanes look after each task, so
that no second one grows beyond it.

So never do more children run tasks than were asked for, and no child runs more tasks than allowed:
``--max-tasks-per-child 1`` gives each task a fresh process.

Pure: the pump asks its ``Allowance``, the supervisor does what ``steps`` says.
Rejected: ending the child and starting another then (the slot stands empty for as long as a start
takes); letting both run for a while (one task per child would be two at a time).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from umbel.worker.board import SlotState

_UNLIMITED = 1 << 60
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
#: Seconds between two looks at the size of the process.
LOOK_EVERY = 0.02
#: Over so many times its memory a child gives back at once what has not begun.
FAR_OVER = 1.1


def resident_kib() -> int:
    """Return how much memory this process uses, in KiB."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:  # noqa: PTH123 -- a Path costs more than the read
            return int(statm.read(128).split()[1]) * _PAGE_KIB
    except OSError:  # macOS: the largest it ever had, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Allowance:
    """What a child may do before it is worn. Owned by the pump's thread; lanes ``measure``."""

    def __init__(
        self,
        tasks: int | None = None,
        memory_kib: int | None = None,
        *,
        resident: Callable[[], int] = resident_kib,
    ) -> None:
        self.limited = bool(tasks or memory_kib)
        self.limits_memory = bool(memory_kib)
        #: How many more tasks it may be handed.
        self.left = tasks or _UNLIMITED
        self._memory = memory_kib
        self._resident = resident
        self._look_at = 0.0
        #: Why it is worn; "" = it is not.
        self.why = ""
        #: It uses so much more memory than it may that nothing more should begin in it.
        self.far_over = False

    def use(self, tasks: int) -> None:
        """Count tasks that are handed over; negative when some come back unbegun."""
        self.left -= tasks
        if self.left <= 0:
            self.why = "it ran as many tasks as it may"

    def look(self, now: float) -> None:
        """Look at the memory, unless that was just done."""
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self.measure()

    def measure(self) -> bool:
        """Look at the memory; tell whether it is far over. Any thread."""
        if self._memory is not None:
            used = self._resident()
            self.far_over = used > self._memory * FAR_OVER
            if used > self._memory and not self.why:
                self.why = f"it uses {used} KiB of memory and may use {self._memory}"
        return self.far_over


class Step(Enum):
    """What the supervisor does with a child."""

    #: Start a successor of it.
    SUCCEED = "succeed"
    #: Tell it to leave.
    RETIRE = "retire"
    #: Tell it to begin, in a place of its own.
    BEGIN = "begin"


@dataclass(frozen=True, slots=True)
class Seen:
    """A child as the supervisor sees it at one moment."""

    pid: int
    state: SlotState
    worn: bool = False
    #: The pid of the one it succeeds and waits for; 0 = it has its own place.
    follows: int = 0
    #: It was told to leave.
    retiring: bool = False


def steps(children: Sequence[Seen]) -> list[tuple[Step, int]]:
    """Return what to do with whom, by pid."""
    by_pid = {child.pid: child for child in children}
    followed = {child.follows for child in children}
    found = []
    for child in children:
        if child.follows:
            before = by_pid.get(child.follows)
            if before is None or before.state is SlotState.SPENT:
                found.append((Step.BEGIN, child.pid))
            elif child.state is SlotState.STANDBY and not before.retiring:
                found.append((Step.RETIRE, before.pid))
        elif child.worn and not child.retiring and child.pid not in followed:
            found.append((Step.SUCCEED, child.pid))
    return found


def places(children: Sequence[Seen]) -> int:
    """Count the places that are taken: a child and its successor have one, who leaves has none."""
    followed = {child.follows for child in children}
    return sum(
        1
        for child in children
        if not child.follows and (child.pid in followed or not child.retiring)
    )
