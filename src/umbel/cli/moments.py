"""Points in time in options: ``2h`` ago, ``30min`` ago, or a date."""

from __future__ import annotations

import datetime as dt
import re

import click

from umbel.clock import SYSTEM_CLOCK

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})")


def moment(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Read one, for click; return its wall time."""
    if value is None:
        return None
    ago = _AGO.fullmatch(value.strip().lower())
    if ago:
        return SYSTEM_CLOCK.now() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return dt.datetime.fromisoformat(value).timestamp()
    except ValueError:
        expected = "2h, 30min, 7d or a date like 2030-01-31T12:00"
        raise click.BadParameter(f"expected {expected}, got {value!r}") from None
