"""Lengths of time and points in time in options: ``2h``, ``30min``, or a date."""

from __future__ import annotations

import datetime as dt
import re

import click

from umbel.clock import SYSTEM_CLOCK

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LENGTH = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})?")


def span(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Read a length of time, for click; return its seconds."""
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is None:
        raise click.BadParameter(f"expected 7d, 12h, 30min or seconds, got {value!r}")
    return seconds


def moment(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Read a point in time, so long ago or a date, for click; return its wall time."""
    if value is None:
        return None
    ago = _seconds(value)
    if ago is not None:
        return SYSTEM_CLOCK.now() - ago
    try:
        return dt.datetime.fromisoformat(value).timestamp()
    except ValueError:
        expected = "2h, 30min, 7d or a date like 2030-01-31T12:00"
        raise click.BadParameter(f"expected {expected}, got {value!r}") from None


def _seconds(value: str) -> float | None:
    found = _LENGTH.fullmatch(value.strip().lower())
    return float(found[1]) * _UNITS[found[2] or "s"] if found else None
