"""Schedules from JSON, from the text of a command line, and from what settings give."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from umbel.schedules.base import Schedule, ScheduleError
from umbel.schedules.crontab import crontab
from umbel.schedules.interval import clocked, schedule
from umbel.schedules.recurring import rrule
from umbel.schedules.solar import solar

_KINDS: Mapping[str, type[Schedule]] = MappingProxyType(
    {each.kind: each for each in (schedule, crontab, clocked, solar, rrule)}
)
_UNITS = {"ms": 0.001, "s": 1, "": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_EVERY = re.compile(rf"every\s+(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})", re.IGNORECASE)


def maybe_schedule(given: Any, relative: bool = False, app: Any = None) -> Schedule:  # noqa: FBT001, FBT002 -- Celery's signature
    """Return a schedule, or what stands for one: seconds, a timedelta, facts or a text."""
    del app
    match given:
        case Schedule():
            return given
        case int() | float() | dt.timedelta():
            return schedule(given, relative)
        case Mapping():
            return from_json(given)
        case str():
            return from_text(given)
        case _:
            raise ScheduleError(
                f"schedule: expected seconds, a timedelta or crontab(…), got {given!r:.80}"
            )


def from_json(facts: Mapping[str, Any]) -> Schedule:
    """Make a schedule of its ``facts``. Raises ScheduleError."""
    rest = dict(facts)
    kind = _KINDS.get(rest.pop("kind", ""))
    if kind is None:
        raise ScheduleError(
            f"kind: expected one of {', '.join(_KINDS)}, got {facts.get('kind')!r:.80}"
        )
    try:
        return kind.from_facts(rest)
    except TypeError as error:
        raise ScheduleError(f"{kind.kind}: {error}") from error


def from_text(text: str, **limits: Any) -> Schedule:
    """Read a schedule as one types it, or raise ScheduleError.

    ``every 30 s``, ``0 7 * * mon-fri``, ``once 2030-01-31T12:00``, ``sunset 48.9 2.3`` …
    """
    words = text.split()
    first = words[0].lower() if words else ""
    if found := _EVERY.fullmatch(text.strip()):
        return schedule(float(found[1]) * _UNITS[found[2].lower()], **limits)
    match first, words[1:]:
        case ("crontab", fields):
            return crontab.from_string(" ".join(fields), **limits)
        case ("once", [when, *rest]):
            return clocked("T".join([when, *rest]), **limits)
        case ("rrule", [rule]):
            return rrule(rule, **limits)
        case (_, [lat, lon]) if _is_number(lat) and _is_number(lon):
            return solar(first, float(lat), float(lon), **limits)
        case (_, [_, _, _, _]):
            return crontab.from_string(text, **limits)
        case _:
            raise ScheduleError(
                "expected 'every 30 s', five fields of a crontab, 'once 2030-01-31T12:00', "
                f"'sunset 48.9 2.3' or 'rrule FREQ=…', got {text!r:.80}"
            )


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", word) is not None
