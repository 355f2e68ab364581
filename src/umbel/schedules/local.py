"""Readings of a clock in a zone, and the moments at which it shows them.

PEP 495 tells everything: of a reading that does not exist, ``fold=0`` counts with the offset before
the change and ``fold=1`` with the one after it; of one that comes twice, they are the two.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def reading(at: float, zone: dt.tzinfo) -> dt.datetime:
    """Return what the clock shows at a moment."""
    return dt.datetime.fromtimestamp(at, zone)


def moments(shown: dt.datetime, zone: dt.tzinfo) -> tuple[float, ...]:
    """Return when the clock shows this (a naive time): once, or twice.

    If it skips it, that is the moment at which it has skipped it.
    """
    first = shown.replace(tzinfo=zone, fold=0)
    second = first.replace(fold=1)
    early, late = first.timestamp(), second.timestamp()
    if early == late:
        return (early,)
    if early < late:
        return early, late
    return (change(late, early, zone),)


def is_skipped(shown: dt.datetime, zone: dt.tzinfo) -> bool:
    """Tell whether the clock never shows this (a naive time)."""
    first = shown.replace(tzinfo=zone, fold=0)
    return first.timestamp() > first.replace(fold=1).timestamp()


def second_pass(at: float, zone: dt.tzinfo) -> float | None:
    """Return when the clock is put back, if what it shows at this moment comes again after it."""
    shown = reading(at, zone)
    if shown.fold:
        return None
    again = shown.replace(fold=1).timestamp()
    return change(at, again, zone) if again > at else None


def change(before: float, after: float, zone: dt.tzinfo) -> float:
    """Return the first whole second in this span at which the zone's offset is the later one."""
    low, high = int(before), int(after)
    last = reading(after, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if reading(middle, zone).utcoffset() == last:
            high = middle
        else:
            low = middle
    return float(high)


def zone_named(name: str) -> dt.tzinfo:
    """Return a zone by its name, such as Europe/Paris; raise ValueError if there is none."""
    if name.upper() == "UTC":
        return dt.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"expected a zone such as 'Europe/Paris', got {name!r}") from error


def machine_zone() -> dt.tzinfo:
    """Return the zone of this machine, with its rules; UTC if it does not say."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return zone_named(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return dt.UTC
