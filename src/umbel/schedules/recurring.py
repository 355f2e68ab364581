"""``rrule``: recurrence as calendars have it (RFC 5545), through python-dateutil."""

from __future__ import annotations

import datetime as dt
from typing import Any

from umbel.exceptions import ImproperlyConfigured
from umbel.schedules.base import Schedule, ScheduleError, moment
from umbel.schedules.local import is_skipped, moments, reading

#: Characters that a rule may have.
_LONGEST = 1000
_REFUSED = ("SECONDLY", "MINUTELY", "HOURLY", "COUNT")


class rrule(Schedule):
    """Due as a rule says, such as ``FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0``.

    Times are what the zone's clock shows. Without ``dtstart`` it begins when its entry began.
    """

    kind = "rrule"

    def __init__(self, rule: str, dtstart: dt.datetime | str | None = None, **limits: Any) -> None:
        self.rule, self._library = rule, _library()
        self.dtstart = None if dtstart is None else moment("dtstart", dtstart)
        if self.dtstart is not None and self.dtstart.tzinfo is not None:
            raise ScheduleError("dtstart: expected a naive datetime; tz is its zone")
        if len(str(rule)) > _LONGEST:
            raise ScheduleError(f"rule: expected at most {_LONGEST} characters, got {rule!r:.80}")
        begins = {"dtstart": self.dtstart.isoformat()} if self.dtstart else {}
        super().__init__({"rule": rule, **begins}, **limits)
        begins_at = self.dtstart or dt.datetime(2000, 1, 1)  # noqa: DTZ001 -- any reading
        if self._rule(begins_at).after(begins_at, inc=True) is None:
            raise ScheduleError(f"rule: {rule!r:.80} never comes")

    def _rule(self, begins: dt.datetime) -> Any:
        if any(word in str(self.rule).upper() for word in _REFUSED):
            # It is counted from its beginning each time, which must not take ever longer.
            raise ScheduleError("rule: expected FREQ=DAILY or rarer, and UNTIL instead of COUNT")
        try:
            found = self._library.rrulestr(self.rule, dtstart=begins, ignoretz=True)
            if not isinstance(found, self._library.rrule):
                raise ScheduleError("rule: expected one rule, without dates beside it")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ScheduleError(f"rule: {error} in {self.rule!r:.80}") from error
        return found

    def _following(self, at: float, anchor: float, zone: dt.tzinfo) -> float | None:
        begins = self.dtstart or reading(anchor, zone).replace(tzinfo=None, fold=0, microsecond=0)
        rule, shown = self._rule(begins), reading(at, zone).replace(tzinfo=None, fold=0)
        while (shown := rule.after(shown)) is not None:
            due = moments(shown, zone)[0]
            if due > at:
                return due
        return None

    def remark(self, due: float, *, zone: dt.tzinfo) -> str:
        zone = self.zone_in(zone)
        before = reading(due - 1, zone).replace(tzinfo=None, fold=0)
        skipped = is_skipped(before + dt.timedelta(seconds=1), zone)
        return "the clock skips its time, so it runs when that is skipped" if skipped else ""

    def _words(self) -> str:
        return f"rrule {self.rule}"


def _library() -> Any:
    try:
        from dateutil import rrule as library  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise ImproperlyConfigured(
            "rrule needs python-dateutil: pip install umbel[rrule]"
        ) from error
    return library
