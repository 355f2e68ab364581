"""How durations and numbers read."""

from __future__ import annotations

#: Seconds, and the unit's name, from the largest.
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Return a length of time as one reads it: ``340 ms``, ``12 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    left = round(seconds)
    parts = []
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break  # "1 h 3 s" says more than anybody wants to know
    return " ".join(parts[:2])


def count(number: int, what: str) -> str:
    """Return ``1 message``, ``2 messages``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
