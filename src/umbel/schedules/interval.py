"""``schedule``: every so many seconds. ``clocked``: once."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from umbel.schedules.base import Schedule, moment, seconds, wall
from umbel.schedules.local import reading

#: Seconds between two runs: no less than ten milliseconds, no more than a century.
LEAST, MOST = 0.01, 100 * 366 * 86400.0

#: Units that a ``relative`` interval begins with, the largest first, and the fields below each.
_UNITS = (
    (86400, {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}),
    (3600, {"minute": 0, "second": 0, "microsecond": 0}),
    (60, {"second": 0, "microsecond": 0}),
    (1, {"microsecond": 0}),
)


class schedule(Schedule):
    """Due every ``run_every`` seconds of real time, counted from when its entry began.

    With ``start`` the first run is at the start, without after one interval. With ``relative`` it
    is counted from the beginning of the day, hour, minute or second, whichever is the largest that
    the interval has: every two hours then begins on the hour.
    """

    kind = "every"

    def __init__(
        self,
        run_every: float | dt.timedelta | None = None,
        relative: bool = False,  # noqa: FBT001, FBT002 -- Celery's signature
        nowfun: Any = None,
        app: Any = None,
        **limits: Any,
    ) -> None:
        del nowfun, app  # Celery's, for its schedules that ask what time it is
        length = seconds("run_every", run_every, least=LEAST, most=MOST)
        self.run_every = dt.timedelta(seconds=length)
        self.relative = bool(relative)
        facts = {"run_every": length, **({"relative": True} if relative else {})}
        super().__init__(facts, **limits)

    @property
    def seconds(self) -> float:
        """The length of the interval."""
        return self.run_every.total_seconds()

    def _following(self, at: float, anchor: float, zone: dt.tzinfo) -> float:
        # In whole microseconds, so that the same due time is always the same number.
        begins = round(self._begin(anchor, zone) * 1e6)
        step = self.run_every // dt.timedelta(microseconds=1)
        passed = (round(at * 1e6) - begins) // step
        least = 1 if self._start is None else 0
        return (begins + max(passed + 1, least) * step) / 1e6

    def _begin(self, anchor: float, zone: dt.tzinfo) -> float:
        if not self.relative:
            return anchor
        fields = next((each for unit, each in _UNITS if self.seconds >= unit), {})
        return reading(anchor, zone).replace(**fields).timestamp()  # type: ignore[arg-type]

    def _words(self) -> str:
        return f"every {_length(self.seconds)}{' on the unit' if self.relative else ''}"


class clocked(Schedule):
    """Due once, at this time."""

    kind = "clocked"

    def __init__(self, clocked_time: dt.datetime | str, **limits: Any) -> None:
        for name in ("app", "nowfun"):
            limits.pop(name, None)
        self.clocked_time = moment("clocked_time", clocked_time)
        super().__init__({"clocked_time": self.clocked_time.isoformat()}, **limits)

    def _following(self, at: float, anchor: float, zone: dt.tzinfo) -> float | None:
        del anchor
        due = wall(self.clocked_time, zone)
        return due if due > at else None

    def _words(self) -> str:
        return f"once at {self.clocked_time.isoformat(' ')}"


def _length(length: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if length >= unit and math.fmod(length, unit) == 0:
            return f"{length / unit:g} {name}"
    return f"{length:g} s"
