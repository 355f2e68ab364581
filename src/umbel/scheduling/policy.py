"""What to send, of what is due: decisions as values.

missed      one    all that was missed is made up for by one run, that of the latest due time
            skip   only the latest due time is sent, if it is not older than a minute
            all    each is sent, the latest ``limit`` of them
deadline    what is later than this is not sent
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from umbel.scheduling.entry import Entry

#: Seconds by which a run may be late and is not missed yet: a takeover is no downtime.
GRACE = 60.0
#: Due times that are counted one by one; beyond that many only the latest are looked at.
COUNTED = 1000

#: Returns the first due time after a moment.
Following = Callable[[float], float | None]


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from what is due."""

    #: Due times that are sent, in order.
    send: tuple[float, ...]
    #: The latest due time: all up to it has been dealt with.
    dealt: float
    #: Due times that are not sent.
    missed: int = 0
    #: There were more than could be counted.
    more: bool = False


def decide(entry: Entry, following: Following, *, after: float, now: float) -> Decision | None:
    """Decide what to send of what came due after ``after``; None = nothing is due."""
    most = entry.limit if entry.missed == "all" else 1
    found, count = overdue(entry, following, after=after, now=now, most=most)
    if not found:
        return None
    send = [due for due in found if _is_worth(entry, due, now)]
    return Decision(tuple(send), found[-1], count - len(send), count >= COUNTED)


def _is_worth(entry: Entry, due: float, now: float) -> bool:
    late = now - due - entry.schedule.delay(entry.name, due)
    if entry.deadline is not None and late > entry.deadline:
        return False
    return entry.missed != "skip" or late <= GRACE


def overdue(
    entry: Entry, following: Following, *, after: float, now: float, most: int
) -> tuple[Sequence[float], int]:
    """Return the latest ``most`` due times up to now, and how many there are, counted so far."""
    delay = entry.schedule.delay
    found: deque[float] = deque(maxlen=most)
    at, count = after, 0
    while (due := following(at)) is not None and due + delay(entry.name, due) <= now:
        found.append(due)
        at, count = due, count + 1
        if count >= COUNTED:
            return _latest(following, after=at, now=now, most=most) or found, count
    return found, count


def _latest(following: Following, *, after: float, now: float, most: int) -> list[float]:
    """Look back from now, twice as far each time, until there are enough."""
    window, found = 1.0, list[float]()
    while len(found) < most and now - window > after:
        window *= 2
        found = _between(following, max(now - window, after), now)
    return found[-most:]


def _between(following: Following, begin: float, end: float) -> list[float]:
    found: list[float] = []
    due = following(begin)
    while due is not None and due <= end:
        found.append(due)
        due = following(due)
    return found
