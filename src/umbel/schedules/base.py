"""What every schedule has: a zone, a start, an end, jitter, and a form in JSON: its identity."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Any, Self

from umbel.schedules.local import moments, zone_named

#: Seconds: due times are counted in these.
MICROSECOND = 1e-6
#: Most seconds of jitter: a day.
MOST_JITTER = 86400.0


class ScheduleError(ValueError):
    """A schedule makes no sense. The message says what was expected."""


class Schedule:
    """When something is due. Schedules that say the same are equal; none is ever changed.

    ``tz`` is the zone of naive times, by default the application's. Nothing is due before ``start``
    or after ``end``. Of ``jitter`` seconds each run waits a part, always the same one for the same
    run of the same entry.
    """

    #: Names it in JSON.
    kind = ""

    def __init__(
        self,
        facts: Mapping[str, Any],
        *,
        tz: dt.tzinfo | str | None = None,
        start: dt.datetime | str | None = None,
        end: dt.datetime | str | None = None,
        jitter: float | dt.timedelta = 0.0,
    ) -> None:
        self._zone, zone_name = _zone(tz)
        self._start, self._end = _moment("start", start), _moment("end", end)
        self.jitter = seconds("jitter", jitter, least=0.0, most=MOST_JITTER)
        limits = {
            "tz": zone_name,
            "start": self._start and self._start.isoformat(),
            "end": self._end and self._end.isoformat(),
            "jitter": self.jitter,
        }
        #: What it says, as JSON.
        self.facts: dict[str, Any] = {
            "kind": self.kind,
            **facts,
            **{name: value for name, value in limits.items() if value},
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Make one of what ``facts`` was."""
        return cls(**facts)

    # --- when

    def following(self, at: float, *, anchor: float, zone: dt.tzinfo) -> float | None:
        """Return the first due time after ``at`` (wall seconds), or None: there is none.

        ``anchor`` is when its entry began, ``zone`` the application's.
        """
        zone = self._zone or zone
        start = at if self._start is None else wall(self._start, zone)
        if start > at:  # what is due at the start itself counts
            at = start - MICROSECOND
        try:
            due = self._following(at, anchor if self._start is None else start, zone)
        except OverflowError:  # behind the last day that Python can count
            return None
        end = None if self._end is None or due is None else wall(self._end, zone)
        return due if due is None or end is None or due <= end else None

    def _following(self, at: float, anchor: float, zone: dt.tzinfo) -> float | None:
        raise NotImplementedError

    def zone_in(self, zone: dt.tzinfo) -> dt.tzinfo:
        """Return its zone; ``zone`` is the application's."""
        return self._zone or zone

    def delay(self, name: str, due: float) -> float:
        """Return what jitter adds to a due time of this entry."""
        if not self.jitter:
            return 0.0
        digest = hashlib.blake2b(f"{name} {due:.6f}".encode(), digest_size=8).digest()
        return self.jitter * int.from_bytes(digest) / 2**64

    def remark(self, due: float, *, zone: dt.tzinfo) -> str:  # noqa: ARG002 -- for those that have one
        """Say what is irregular about a due time; "" = nothing."""
        return ""

    # --- what it is

    def __eq__(self, other: object) -> bool:
        """Compare what both say."""
        return isinstance(other, Schedule) and self.facts == other.facts

    def __hash__(self) -> int:
        """Hash what it says."""
        return hash(repr(sorted(self.facts.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it says."""
        facts = {name: value for name, value in self.facts.items() if name != "kind"}
        return _again, (type(self), facts)

    def __str__(self) -> str:
        """Show it in words."""
        return f"{self._words()}{self._limits()}"

    def __repr__(self) -> str:
        """Show it in words."""
        return f"<{self}>"

    def _words(self) -> str:
        raise NotImplementedError

    def _limits(self) -> str:
        said = {"tz": "in", "start": "from", "end": "until", "jitter": "jitter"}
        return "".join(
            f", {word} {self.facts[name]}" for name, word in said.items() if name in self.facts
        )


def _again(cls: type[Schedule], facts: Mapping[str, Any]) -> Schedule:
    return cls.from_facts(facts)


def _zone(tz: dt.tzinfo | str | None) -> tuple[dt.tzinfo | None, str]:
    if tz is None or isinstance(tz, str):
        try:
            return (zone_named(tz), tz) if tz else (None, "")
        except ValueError as error:
            raise ScheduleError(f"tz: {error}") from error
    name = "UTC" if tz is dt.UTC else getattr(tz, "key", None) or getattr(tz, "zone", None)
    if not isinstance(name, str):
        raise ScheduleError(f"tz: expected a zone with a name, got {tz!r}")
    return zone_named(name), name


def _moment(name: str, given: dt.datetime | str | None) -> dt.datetime | None:
    return None if given is None else moment(name, given)


def moment(name: str, given: Any) -> dt.datetime:
    """Read a point in time, or raise ScheduleError."""
    try:
        found: dt.datetime = dt.datetime.fromisoformat(given) if isinstance(given, str) else given
        found.astimezone(dt.UTC)  # fails too near to the ends of time
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ScheduleError(
            f"{name}: expected a datetime or an ISO 8601 text, got {given!r:.80}"
        ) from None
    return found


def wall(given: dt.datetime, zone: dt.tzinfo) -> float:
    """Return a point in time as wall seconds; a naive one is what the zone's clock shows first."""
    return moments(given, zone)[0] if given.tzinfo is None else given.timestamp()


def seconds(name: str, given: Any, *, least: float, most: float) -> float:
    """Read a length of time, or raise ScheduleError."""
    length = given.total_seconds() if isinstance(given, dt.timedelta) else given
    fits = isinstance(length, (int, float)) and not isinstance(length, bool)
    if not fits or not least <= length <= most:  # NaN is in no range
        raise ScheduleError(
            f"{name}: expected {least:g} to {most:g} seconds or such a timedelta, got {given!r:.80}"
        )
    return float(length)
