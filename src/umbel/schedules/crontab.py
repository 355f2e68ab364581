"""``crontab``: minutes, hours, weekdays, days and months, in Celery's grammar.

A field is a number, a text, or an iterable of numbers. A text is a list of parts between commas:

    *        all               a-b      from a to b, over the end too: 22-2, fri-mon
    n, name  that one          */n      every n-th from the first, of months and days from 1
                               a-b/n    every n-th of that range

All fields must match, weekday *and* day of the month, as with Celery; Unix' cron takes either.
Weekdays are 0 (Sunday) to 6, sun to sat, or their names; months 1 to 12, jan to dec, or theirs.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from umbel.schedules.base import Schedule, ScheduleError
from umbel.schedules.local import is_skipped, moments, reading, second_pass

#: What fields take: a number, a text, or numbers.
Field = int | str | Iterable[int]

_PART = re.compile(r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")
_DAYS = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]
_MONTHS = [name.lower() for name in calendar.month_name[1:]]
_MINUTE = dt.timedelta(minutes=1)
#: Years in which any combination that is possible comes: 29 February on a Monday, over 2100.
_HORIZON = 48


class ParseException(ScheduleError):
    """A field of a crontab cannot be read. The message says which part."""


class crontab_parser:
    """Reads fields whose numbers begin with ``min_`` and are ``max_`` many."""

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_, self.min_ = max_, min_

    def parse(self, spec: str) -> set[int]:
        """Return the numbers that a text names; raise ParseException."""
        return {number for part in spec.split(",") for number in self._part(part.strip())}

    def _part(self, part: str) -> list[int]:
        found = _PART.fullmatch(part)
        if found is None:
            raise ParseException(f"expected *, */n, a, a-b or a-b/n, got {part!r}")
        highest = self.min_ + self.max_ - 1
        if found["star"]:
            numbers = list(range(self.min_, highest + 1))
        else:
            first = self._number(found["first"])
            last = self._number(found["last"]) if found["last"] else first
            numbers = (
                list(range(first, last + 1))
                if first <= last
                else [*range(first, highest + 1), *range(self.min_, last + 1)]
            )
        if found["step"] is None:
            return numbers
        if not int(found["step"]) or not (found["star"] or found["last"]):
            raise ParseException(f"expected a step above 0 of * or a range, got {part!r}")
        return numbers[:: int(found["step"])]

    def _number(self, word: str) -> int:
        if word.isascii() and word.isdigit():
            number = int(word[:9])
            if self.min_ <= number < self.min_ + self.max_:
                return number
        elif (named := self._named(word.lower())) is not None:
            return named
        raise ParseException(
            f"expected {self.min_} to {self.min_ + self.max_ - 1}{self._names()}, got {word!r}"
        )

    def _named(self, word: str) -> int | None:
        names = {7: _DAYS, 12: _MONTHS}.get(self.max_, [])
        for number, name in enumerate(names, self.min_):
            if word in (name, name[:3]):
                return number
        return None

    def _names(self) -> str:
        return {7: " or a weekday", 12: " or a month"}.get(self.max_, "")


class crontab(Schedule):
    """Due when the clock shows a time that all fields match."""

    kind = "crontab"

    def __init__(
        self,
        minute: Field = "*",
        hour: Field = "*",
        day_of_week: Field = "*",
        day_of_month: Field = "*",
        month_of_year: Field = "*",
        **limits: Any,
    ) -> None:
        for name in ("app", "nowfun"):  # Celery's, for its schedules that ask what time it is
            limits.pop(name, None)
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        texts = [_text(*pair) for pair in zip(_FIELDS, given, strict=True)]
        super().__init__(dict(zip(_FIELDS, texts, strict=True)), **limits)
        read = [_read(name, text) for name, text in zip(_FIELDS, texts, strict=True)]
        self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year = read
        self._minutes, self._hours = sorted(self.minute), sorted(self.hour)
        self._days = sorted(self.day_of_month)
        if not any(self._days[0] <= _longest(month) for month in self.month_of_year):
            raise ScheduleError(f"{self} never comes: no such month has such a day")

    @classmethod
    def from_string(cls, text: str, **limits: Any) -> crontab:
        """Make one of Unix' order: minute, hour, day of the month, month, weekday."""
        fields = text.split()
        if len(fields) != 5:
            raise ScheduleError(f"expected five fields as in '0 7 * * mon-fri', got {text!r:.80}")
        minute, hour, day, month, weekday = fields
        return cls(minute, hour, weekday, day, month, **limits)

    def _following(self, at: float, anchor: float, zone: dt.tzinfo) -> float | None:
        del anchor
        now = reading(at, zone)
        found: list[float] = []
        for shown in self._readings(now.replace(tzinfo=None, fold=0)):
            later = [each for each in self._moments(shown, zone) if each > at]
            if later:
                found.append(later[0])
                break
        if self._is_hourly and (back := second_pass(at, zone)) is not None:
            # It is put back soon: what it shows then comes before what it has not shown yet.
            begins = reading(back, zone).replace(tzinfo=None, fold=0) - _MINUTE
            again = next(self._readings(begins), None)
            if again is not None:
                found += [each for each in moments(again, zone) if each >= back]
        return min(found, default=None)

    def _moments(self, shown: dt.datetime, zone: dt.tzinfo) -> tuple[float, ...]:
        found = moments(shown, zone)
        return found if self._is_hourly else found[:1]

    @property
    def _is_hourly(self) -> bool:
        return len(self._hours) == 24

    def _readings(self, after: dt.datetime) -> Iterator[dt.datetime]:
        """Yield the readings of a clock (naive) that match, later ones than this."""
        first = after.replace(second=0, microsecond=0) + _MINUTE
        for day in self._dates(first.date()):
            begins = first.time() if day == first.date() else dt.time()
            for hour in self._hours[bisect_left(self._hours, begins.hour) :]:
                least = begins.minute if hour == begins.hour else 0
                for minute in self._minutes[bisect_left(self._minutes, least) :]:
                    yield dt.datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001 -- a reading

    def _dates(self, first: dt.date) -> Iterator[dt.date]:
        months = range(first.year * 12 + first.month - 1, (first.year + _HORIZON) * 12)
        for year, month in (divmod(each, 12) for each in months):
            if year > dt.MAXYEAR or month + 1 not in self.month_of_year:
                continue
            begins, length = calendar.monthrange(year, month + 1)
            least = first.day if (year, month + 1) == (first.year, first.month) else 1
            for day in self._days[bisect_left(self._days, least) :]:
                if day <= length and (begins + day) % 7 in self.day_of_week:
                    yield dt.date(year, month + 1, day)

    def remark(self, due: float, *, zone: dt.tzinfo) -> str:
        zone = self.zone_in(zone)
        shown = reading(due, zone)
        minute = shown.replace(tzinfo=None, fold=0)
        if not self._matches(minute):
            skipped = self._skipped(due, zone)
            return f"the clock skips {skipped:%H:%M}, so it runs when that is skipped"
        if shown.fold:
            return f"{minute:%H:%M} comes a second time, and it names all hours"
        if second_pass(due, zone) is not None:
            return "" if self._is_hourly else f"{minute:%H:%M} comes twice; it runs the first time"
        return ""

    def _skipped(self, due: float, zone: dt.tzinfo) -> dt.datetime:
        """Return the first reading that is skipped at this moment and matches."""
        before = reading(due - 1, zone).replace(tzinfo=None, fold=0)
        return next(each for each in self._readings(before) if is_skipped(each, zone))

    def _matches(self, shown: dt.datetime) -> bool:
        return next(self._readings(shown - _MINUTE)) == shown

    def _words(self) -> str:
        minute, hour, weekday, day, month = (self.facts[name] for name in _FIELDS)
        return f"crontab {minute} {hour} {day} {month} {weekday}"


_FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
_RANGES = {
    "minute": (60, 0),
    "hour": (24, 0),
    "day_of_week": (7, 0),
    "day_of_month": (31, 1),
    "month_of_year": (12, 1),
}
#: Characters of a field at most: all minutes one by one take 169.
_LONGEST_FIELD = 400


def _text(name: str, given: Any) -> str:
    if isinstance(given, str):
        return given.replace(" ", "")
    numbers = list(given) if isinstance(given, Iterable) else [given]
    listed = [each for each in numbers if isinstance(each, int) and not isinstance(each, bool)]
    if not listed or len(listed) < len(numbers):
        raise ParseException(f"{name}: expected a number, a text or numbers, got {given!r:.80}")
    return ",".join(map(str, sorted(set(listed))))


def _read(name: str, text: str) -> set[int]:
    if len(text) > _LONGEST_FIELD:
        raise ParseException(f"{name}: expected at most {_LONGEST_FIELD} characters")
    try:
        return crontab_parser(*_RANGES[name]).parse(text)
    except ParseException as error:
        raise ParseException(f"{name}: {error}") from None


def _longest(month: int) -> int:
    return calendar.monthrange(2000, month)[1]
