"""What an entry will do, and why: the next runs with the reason of each irregular one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from umbel.scheduling.entry import Entry
from umbel.scheduling.policy import Following, decide
from umbel.scheduling.state import State


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ahead."""

    due_at: float
    #: When it is sent: jitter is added to the due time.
    sent_at: float
    #: What is irregular about it; "" = nothing.
    remark: str = ""


def following_of(entry: Entry, state: State, zone: dt.tzinfo) -> Following:
    """Return what finds the entry's due times."""
    return partial(entry.schedule.following, anchor=state.anchor, zone=zone)


def next_runs(
    entry: Entry, state: State, *, now: float, zone: dt.tzinfo, count: int
) -> Iterator[Run]:
    """Yield the next runs, as they are sent if a scheduler leads from now on."""
    following, after = following_of(entry, state, zone), state.due_at
    decision = decide(entry, following, after=after, now=now)
    if decision is not None:
        after = decision.dealt
        for due in decision.send[-count:]:
            yield Run(
                due, now, f"catch-up: it was due {now - due:.0f} s ago (missed={entry.missed})"
            )
        count -= min(count, len(decision.send))
    for _ in range(count):
        due_at = following(after)
        if due_at is None:
            return
        after = due_at
        yield Run(
            due_at,
            due_at + entry.schedule.delay(entry.name, due_at),
            _remark(entry, following, due_at, zone),
        )


def _remark(entry: Entry, following: Following, due: float, zone: dt.tzinfo) -> str:
    remarks = [entry.schedule.remark(due, zone=zone)]
    if following(due) is None:
        remarks.append("the last one")
    return "; ".join(each for each in remarks if each)
