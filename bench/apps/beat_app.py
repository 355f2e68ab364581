"""umbel with a schedule: many entries, of which some are due in the same second."""

from __future__ import annotations

import os

from bench.apps.umbel_app import app
from umbel.schedules import schedule

#: How many entries there are, how many of them are due at once, and when; set by the case.
ENTRIES, DUE, DUE_AT = "BENCH_ENTRIES", "BENCH_DUE", "BENCH_DUE_AT"
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


if DUE_AT in os.environ:
    app.conf.beat_schedule = entries()
