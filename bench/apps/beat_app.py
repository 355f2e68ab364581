"""umbel with a schedule: many entries, of which some are due in the same second, or all in each."""

from __future__ import annotations

import os

from bench.apps.umbel_app import app
from umbel.schedules import schedule

#: How many entries there are, how many of them are due at once, and when; set by the case.
ENTRIES, DUE, DUE_AT = "BENCH_ENTRIES", "BENCH_DUE", "BENCH_DUE_AT"
#: How many there are that are due every second.
EVERY = "BENCH_EVERY"
#: Seconds until any other is due.
FAR = 1e7


def entries() -> dict[str, object]:
    """Return the schedule."""
    soon = schedule(FAR, start=os.environ[DUE_AT])
    due = int(os.environ[DUE])
    return {
        f"entry {number}": {
            "task": "noop",
            "schedule": soon if number < due else FAR,
            "args": (number,),
        }
        for number in range(int(os.environ[ENTRIES]))
    }


def every_second() -> dict[str, object]:
    """Return the other schedule."""
    return {
        f"entry {number}": {"task": "noop", "schedule": 1.0, "args": (number,)}
        for number in range(int(os.environ[EVERY]))
    }


if EVERY in os.environ:
    app.conf.beat_schedule = every_second()
if DUE_AT in os.environ:
    app.conf.beat_schedule = entries()
