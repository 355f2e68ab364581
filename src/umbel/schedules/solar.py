"""``solar``: dawn, sunrise, noon, sunset and dusk at a place.

ephem computes them: it is what Celery's users have, so the same place and day give the same second,
it finds the next event across weeks of polar day or night, and one C library of thirty years does
the astronomy. astral counts day by day and has no noon at the second; it was the other choice.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from umbel.exceptions import ImproperlyConfigured
from umbel.schedules.base import Schedule, ScheduleError
from umbel.spelling import suggestion

#: Event -> the sun's height in degrees, which move, and whether its centre counts, not its rim.
_EVENTS = {
    "dawn_astronomical": ("-18", "rising", True),
    "dawn_nautical": ("-12", "rising", True),
    "dawn_civil": ("-6", "rising", True),
    "sunrise": ("-0:34", "rising", False),
    "solar_noon": ("0", "transit", False),
    "sunset": ("-0:34", "setting", False),
    "dusk_civil": ("-6", "setting", True),
    "dusk_nautical": ("-12", "setting", True),
    "dusk_astronomical": ("-18", "setting", True),
}
#: Days ahead to look for an event that does not come every day.
_SEARCH = 366
#: Seconds after which an event that comes daily has been left out.
_LONG = 1.5 * 86400


class solar(Schedule):
    """Due at each event of the sun at latitude ``lat`` (north > 0) and longitude ``lon`` (east)."""

    kind = "solar"

    def __init__(self, event: str, lat: float, lon: float, **limits: Any) -> None:
        for name in ("app", "nowfun"):
            limits.pop(name, None)
        if event not in _EVENTS:
            raise ScheduleError(
                f"event: expected one of {', '.join(_EVENTS)}, got {event!r:.80}"
                f"{suggestion(str(event), _EVENTS)}"
            )
        self.event = event
        self.lat, self.lon = _degrees("lat", lat, 90), _degrees("lon", lon, 180)
        self._ephem = _library()
        super().__init__({"event": event, "lat": self.lat, "lon": self.lon}, **limits)

    def _following(self, at: float, anchor: float, zone: dt.tzinfo) -> float | None:
        del anchor, zone
        # Dates of ephem are exact to 10 ms or so: without the rest of a second, an event would
        # follow itself.
        found = self._event_after(at + 1.0)
        return None if found is None else float(round(found))

    def _event_after(self, at: float) -> float | None:
        height, move, centre = _EVENTS[self.event]
        observer, sun = self._ephem.Observer(), self._ephem.Sun()
        observer.lat, observer.lon, observer.horizon = str(self.lat), str(self.lon), height
        observer.pressure = 0
        start = self._ephem.Date(dt.datetime.fromtimestamp(at, dt.UTC).replace(tzinfo=None))
        options = {"use_center": True} if centre else {}
        for _ in range(_SEARCH):
            try:
                found = getattr(observer, f"next_{move}")(sun, start=start, **options)
            except self._ephem.CircumpolarError:  # not that day
                start = observer.next_antitransit(sun, start=start)
            else:
                when: dt.datetime = found.datetime()
                return when.replace(tzinfo=dt.UTC).timestamp()
        return None

    def remark(self, due: float, *, zone: dt.tzinfo) -> str:
        del zone
        before = self._event_after(due - _LONG)
        return (
            "" if before is not None and before < due - 3600 else "it did not come the day before"
        )

    def _words(self) -> str:
        return f"{self.event} at {self.lat:g}, {self.lon:g}"


def _degrees(name: str, given: Any, most: int) -> float:
    if isinstance(given, (int, float)) and -most <= given <= most:
        return float(given)
    raise ScheduleError(f"{name}: expected -{most} to {most} degrees, got {given!r:.80}")


def _library() -> Any:
    try:
        import ephem  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise ImproperlyConfigured(
            "solar schedules need ephem: pip install umbel[solar]"
        ) from error
    return ephem
