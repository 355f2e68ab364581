"""Crontabs and events of the sun, compared with what a real Celery computes."""

from __future__ import annotations

import calendar
import datetime as dt
from typing import Any

import celery
import celery.schedules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.schedules import ScheduleError, crontab, crontab_parser, solar

NAMES = {
    (7, 0): ["sun", "mon", "tuesday", "wed", "thu", "friday", "sat"],
    (12, 1): ["jan", "february", "mar", "dec"],
}
RANGES = {"minute": (60, 0), "hour": (24, 0), "day_of_week": (7, 0)} | {
    "day_of_month": (31, 1),
    "month_of_year": (12, 1),
}
MOMENTS = st.datetimes(
    dt.datetime(1999, 1, 1),  # noqa: DTZ001 -- made aware below
    dt.datetime(2090, 1, 1),  # noqa: DTZ001
    timezones=st.just(dt.UTC),
)


def words(size: int, least: int) -> st.SearchStrategy[str]:
    numbers = st.integers(max(least - 1, 0), least + size).map(str)
    return numbers | st.sampled_from(NAMES.get((size, least), ["*"]))


def parts(size: int, least: int) -> st.SearchStrategy[str]:
    word, step = words(size, least), st.integers(1, size).map(str)
    ranges = st.tuples(word, word).map("-".join)
    whole = st.just("*") | word | ranges
    return whole | st.tuples(st.just("*") | ranges, step).map("/".join)


def fields(size: int, least: int) -> st.SearchStrategy[str]:
    return st.lists(parts(size, least), min_size=1, max_size=3).map(",".join) | st.just("*")


@st.composite
def crontabs(draw: st.DrawFn) -> dict[str, str]:
    return {name: draw(fields(*where)) for name, where in RANGES.items()}


def celerys(spec: dict[str, str]) -> Any | None:
    try:
        return celery.schedules.crontab(**spec)
    except (ValueError, celery.schedules.ParseException):
        return None


def ours(spec: dict[str, str]) -> crontab | None:
    try:
        return crontab(**spec)
    except ScheduleError:
        return None


def next_of_celery(spec: dict[str, str], at: dt.datetime) -> dt.datetime:
    app = celery.Celery(set_as_current=False)
    theirs = celery.schedules.crontab(**spec, nowfun=lambda: at, app=app)
    begun, delta, _ = theirs.remaining_delta(at)
    found: dt.datetime = begun + delta
    return found


@settings(max_examples=500, deadline=None)
@given(crontabs(), MOMENTS)
def test_crontabs_are_read_and_come_as_with_celery(spec: dict[str, str], at: dt.datetime) -> None:
    theirs, mine = celerys(spec), ours(spec)
    if theirs is None:
        assert mine is None
        return
    if mine is None:  # Celery takes it, and looks for ever for a day that there is not
        first, months = min(theirs.day_of_month), theirs.month_of_year
        assert all(first > calendar.monthrange(2000, month)[1] for month in months)
        return
    for name in RANGES:
        assert getattr(mine, name) == getattr(theirs, name)
    if min(mine.day_of_month) > 28 and mine.month_of_year == {2}:
        return  # Celery gives up when the leap year is far
    due = mine.following(at.timestamp(), anchor=0, zone=dt.UTC)
    assert due is not None
    assert dt.datetime.fromtimestamp(due, dt.UTC) == next_of_celery(spec, at)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(RANGES.values())), st.data())
def test_a_field_is_read_as_celery_reads_it(where: tuple[int, int], data: st.DataObject) -> None:
    text = data.draw(fields(*where))
    try:
        theirs = celery.schedules.crontab_parser(*where).parse(text)
    except (ValueError, celery.schedules.ParseException):
        with pytest.raises(ScheduleError):
            crontab_parser(*where).parse(text)
    else:
        assert crontab_parser(*where).parse(text) == theirs


@pytest.mark.parametrize("event", sorted(celery.schedules.solar._all_events))
@pytest.mark.parametrize("place", [(48.86, 2.35), (-33.87, 151.2), (69.65, 18.96), (0.0, -180.0)])
def test_the_sun_is_where_celery_has_it(event: str, place: tuple[float, float]) -> None:
    app = celery.Celery(set_as_current=False)
    mine = solar(event, *place)
    for month in (1, 4, 6, 9, 12):
        at = dt.datetime(2026, month, 3, 7, tzinfo=dt.UTC)
        theirs = celery.schedules.solar(event, *place, nowfun=lambda at=at: at, app=app)
        due = mine.following(at.timestamp(), anchor=0, zone=dt.UTC)
        assert due is not None
        expected = theirs.remaining_estimate(at).total_seconds()
        assert due - at.timestamp() == pytest.approx(expected, abs=1.5)
