"""The seam of beat: what a server keeps of schedules, and the one step that sends what is due.

A *timetable* has a name, which is that of a lease of the ledger too: who holds the lease leads, and
its token fences the step. Three things are kept of it:

    entries    name -> what was added at run time, opaque; ``revision`` counts their changes
    progress   name -> the last due time that was dealt with, and an opaque record
    lease      in the ledger: the leader and the newest token

A tick is dealt with by moving its entry's progress from the due time before it to its own. Its
message is stored by the same step. So it is sent once, whoever tries how often; and a leader who
was paused, and whose lease another has taken, moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ConnectionLost, PublishError, TimeoutError
from umbel.message import Message

#: Seconds that a broker has to confirm ticks.
PUBLISH_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an entry has come."""

    #: The last due time that was dealt with, in wall time.
    due_at: float
    #: Opaque.
    record: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A due time that is dealt with, and the message that does it."""

    entry: str
    #: How far the entry has come so far; None = it begins.
    after: float | None
    due_at: float
    #: Kept with the progress.
    record: str
    #: None = nothing is sent.
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class TickReport:
    """What became of ticks."""

    #: False: another leads, and nothing took place.
    leads: bool = True
    #: Their entries are elsewhere than was said: somebody has dealt with them.
    passed: tuple[Tick, ...] = ()
    #: Their messages cannot be stored, and why; their entries are where they were.
    refused: tuple[tuple[Tick, str], ...] = ()


class Timetable(Protocol):
    """Timetables of a server. Thread-safe."""

    def entries(self, table: str) -> Mapping[str, str]:
        """Return what is kept of entries, by name."""
        ...

    def put(self, table: str, name: str, entry: str | None, *, before: str | None) -> bool:
        """Keep an entry, or with None delete it; only if what is kept is ``before`` (None = none).

        Tells whether it was. An entry that is deleted loses its progress.
        """
        ...

    def revision(self, table: str) -> int:
        """Return a number that grows with each change of entries."""
        ...

    def progress(self, table: str, names: Sequence[str] | None = None) -> Mapping[str, Progress]:
        """Return how far all entries, or these, have come; those that have not begun are absent."""
        ...

    def leader(self, table: str) -> str | None:
        """Return who holds the lease, or None."""
        ...

    def advance(self, table: str, ticks: Sequence[Tick], *, token: int) -> TickReport:
        """Deal with ticks, in one round trip: with each whole or not at all, and once.

        Nothing takes place unless ``token`` is the newest of the lease. On servers that are
        "ordered" messages are stored before their entries move: who dies in between has the same
        ticks sent again, under the same ids.
        Raises ConnectionLost; then nothing is known, and the same call may be repeated.
        """
        ...


class OrderedTimetable:
    """The timetables of a store for a broker that has none. Thread-safe."""

    def __init__(self, inner: Timetable, publish: Publish, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._inner = inner
        self._publish = publish
        self._clock = clock
        self.entries = inner.entries
        self.put = inner.put
        self.revision = inner.revision
        self.progress = inner.progress
        self.leader = inner.leader

    def advance(self, table: str, ticks: Sequence[Tick], *, token: int) -> TickReport:
        if not self._inner.advance(table, (), token=token).leads:
            return TickReport(leads=False)
        fresh = self._fresh(table, ticks)
        reasons = self._store([tick.message for tick in fresh if tick.message is not None])
        refused = [
            (tick, reasons[tick.message.id])
            for tick in fresh
            if tick.message is not None and tick.message.id in reasons
        ]
        unsent = {id(tick) for tick, _ in refused}
        sent = [replace(each, message=None) for each in fresh if id(each) not in unsent]
        report = self._inner.advance(table, sent, token=token)
        moved = {id(each) for each in fresh}
        passed = tuple(each for each in ticks if id(each) not in moved)
        return TickReport(report.leads, passed + report.passed, tuple(refused))

    def _fresh(self, table: str, ticks: Sequence[Tick]) -> list[Tick]:
        """Return the ticks that nobody has dealt with."""
        kept = self._inner.progress(table, [tick.entry for tick in ticks])
        at: dict[str, float | None] = {name: each.due_at for name, each in kept.items()}
        fresh: list[Tick] = []
        for tick in ticks:
            if at.get(tick.entry) == tick.after:
                at[tick.entry] = tick.due_at
                fresh.append(tick)
        return fresh

    def _store(self, messages: Sequence[Message]) -> dict[str, str]:
        """Publish; return why some are refused, by their ids."""
        try:
            if messages:
                self._publish(messages, deadline=self._clock.monotonic() + PUBLISH_TIMEOUT)
        except PublishError as error:
            return dict(error.refused)
        except TimeoutError as error:
            raise ConnectionLost("the broker did not confirm ticks in time") from error
        return {}


class Publish(Protocol):
    """``Transport.publish``."""

    def __call__(self, messages: Sequence[Message], *, deadline: float) -> None: ...


def due_text(due_at: float | None) -> str:
    """Return a due time as text that is the same for the same one; "" = none."""
    return "" if due_at is None else f"{due_at:.6f}"
