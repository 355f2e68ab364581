"""Timetables in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from umbel.servers.memory.queues import unroutable
from umbel.servers.memory.space import Space
from umbel.servers.timetable import Progress, Tick, TickReport


@dataclass(slots=True)
class Table:
    """One timetable."""

    entries: dict[str, str] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    revision: int = 0


class MemoryTimetable:
    """``Timetable`` over a space."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def entries(self, table: str) -> Mapping[str, str]:
        with self._space.lock:
            return dict(self._table(table).entries)

    def put(self, table: str, name: str, entry: str | None, *, before: str | None) -> bool:
        with self._space.lock:
            found = self._table(table)
            if found.entries.get(name) != before:
                return False
            found.revision += 1
            if entry is not None:
                found.entries[name] = entry
            else:
                found.entries.pop(name, None)
                found.progress.pop(name, None)
            return True

    def revision(self, table: str) -> int:
        with self._space.lock:
            return self._table(table).revision

    def progress(self, table: str, names: Sequence[str] | None = None) -> Mapping[str, Progress]:
        with self._space.lock:
            kept = self._table(table).progress
            return {name: kept[name] for name in (kept if names is None else names) if name in kept}

    def leader(self, table: str) -> str | None:
        with self._space.lock:
            lease = self._space.leases.get(table)
            lives = lease is not None and lease.deadline > self._space.clock.monotonic()
            return lease.holder or None if lease is not None and lives else None

    def advance(self, table: str, ticks: Sequence[Tick], *, token: int) -> TickReport:
        space = self._space
        with space.lock:
            lease = space.leases.get(table)
            if lease is None or lease.token != token:
                return TickReport(leads=False)
            progress = self._table(table).progress
            passed: list[Tick] = []
            refused: list[tuple[Tick, str]] = []
            for tick in ticks:
                kept = progress.get(tick.entry)
                if (None if kept is None else kept.due_at) != tick.after:
                    passed.append(tick)
                elif tick.message is not None and not space.routes(tick.message):
                    refused.append((tick, unroutable(tick.message)))
                else:
                    progress[tick.entry] = Progress(tick.due_at, tick.record)
                    if tick.message is not None:
                        space.store(tick.message, space.routes(tick.message))
            return TickReport(passed=tuple(passed), refused=tuple(refused))

    def _table(self, name: str) -> Table:
        found: Table = self._space.timetables.setdefault(name, Table())
        return found
