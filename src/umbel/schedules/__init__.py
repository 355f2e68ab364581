"""When something is due: pure values, without clock, server or task.

    base       Schedule: what all have (zone, start, end, jitter), and their JSON
    local      readings of a clock in a zone, also where it is put forward or back
    crontab    crontab, and its grammar        interval   schedule, clocked
    solar      events of the sun               recurring  rrule: RFC 5545

**Due times are points of a fixed sequence.** ``following(at, …)`` depends on nothing but its
arguments, so two processes that never heard of each other agree on every due time, and a due time
and the name of its entry make the id of a message.

**When a clock is put forward or back** (daylight saving, a zone's new rules, a date line):

- An interval is real time and does not notice.
- A time that the clock skips is due at the moment at which the clock has skipped it; several that
  are skipped together are due once. So nothing is missing: a job of 02:30 runs at 03:00 on the day
  that has no 02:30.
- A time that comes twice is due the first time only. A crontab that names all 24 hours is due both
  times: a job of every hour runs every hour.
"""

from __future__ import annotations

from umbel.schedules.base import Schedule, ScheduleError
from umbel.schedules.crontab import ParseException, crontab, crontab_parser
from umbel.schedules.interval import clocked, schedule
from umbel.schedules.reading import from_json, from_text, maybe_schedule
from umbel.schedules.recurring import rrule
from umbel.schedules.solar import solar

__all__ = [
    "ParseException",
    "Schedule",
    "ScheduleError",
    "clocked",
    "crontab",
    "crontab_parser",
    "from_json",
    "from_text",
    "maybe_schedule",
    "rrule",
    "schedule",
    "solar",
]
