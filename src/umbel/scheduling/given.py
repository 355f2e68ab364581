"""All entries of an application: those of its code, of a source of its own, and those added later.

A name is the code's or is added, never both: the code's wins, and the other is told of. What may be
done to an entry of the code at run time is to pause it, which is kept under its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from umbel.schedules import ScheduleError
from umbel.schedules.crontab import crontab
from umbel.scheduling.entry import Entry, entry_of

#: Kept under the name of a paused entry of the code.
PAUSED = json.dumps({"paused": True})
#: Kept from then on when it was resumed, so that what is known of its runs is kept as well.
RESUMED = json.dumps({"paused": False})


class EntrySource(Protocol):
    """One's own source of entries: ``umbel beat --scheduler package.module:Name``.

    It is made with the application as its only argument and asked by the thread that leads.
    """

    def entries(self) -> Mapping[str, Any]:
        """Return entries by name, each as in ``beat_schedule``."""
        ...

    def revision(self) -> object:
        """Return something that changes whenever the entries do. Asked every second."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry, and who says so."""

    entry: Entry
    #: "code" or "added".
    origin: str


@dataclass(frozen=True, slots=True)
class Entries:
    """All entries, and what is wrong with others."""

    by_name: Mapping[str, Listed]
    problems: tuple[str, ...] = ()


def gather(
    code: Mapping[str, Any], kept: Mapping[str, str], *, starting_deadline: float | None = None
) -> Entries:
    """Put entries together: a bad one is told of and never stops the others."""
    found: dict[str, Listed] = {}
    problems: list[str] = []
    for name, entry in _read(code, problems):
        paused = kept.get(name) == PAUSED
        if kept.get(name, RESUMED) not in (PAUSED, RESUMED):
            problems.append(f"entry {name!r}: it was added, but the code's of that name wins")
        found[name] = Listed(replace(entry, paused=entry.paused or paused), "code")
    for name, text in kept.items():
        if name in found or text in (PAUSED, RESUMED):
            continue
        try:
            found[name] = Listed(Entry.from_text(name, text), "added")
        except ScheduleError as error:
            problems.append(f"entry {name!r:.80}: {error}")
    if starting_deadline is not None:
        found = {name: _limited(listed, starting_deadline) for name, listed in found.items()}
    return Entries(found, tuple(problems))


def _read(code: Mapping[str, Any], problems: list[str]) -> Iterator[tuple[str, Entry]]:
    for name, given in code.items():
        try:
            yield name, entry_of(name, given)
        except ScheduleError as error:
            problems.append(f"entry {name!r:.80}: {error}")


def _limited(listed: Listed, deadline: float) -> Listed:
    entry = listed.entry
    if entry.deadline is not None or not isinstance(entry.schedule, crontab):
        return listed
    return replace(listed, entry=replace(entry, deadline=deadline))
