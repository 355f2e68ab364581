"""Schedules: grids, limits, text and JSON, and every change of the clocks."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import ImproperlyConfigured
from umbel.schedules import (
    ParseException,
    Schedule,
    ScheduleError,
    clocked,
    crontab,
    from_json,
    from_text,
    maybe_schedule,
    rrule,
    schedule,
    solar,
)

PARIS = ZoneInfo("Europe/Paris")
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()

#: Zones with odd rules, and years in which they changed: half an hour (Lord Howe), two hours
#: (Troll), Ramadan and a negative summer time (Casablanca), a day that is left out (Apia 2011),
#: midnight (Beirut, Havana, Asuncion), winter time that is negative (Dublin), 45 minutes (Chatham).
ZONES = {
    "Europe/Paris": (2019, 2026),
    "America/New_York": (2026, 2027),
    "Australia/Lord_Howe": (2024, 2027),
    "Antarctica/Troll": (2023, 2026),
    "Africa/Casablanca": (2018, 2026),
    "Africa/El_Aaiun": (2026, 2027),
    "Pacific/Apia": (2010, 2011, 2012),
    "Asia/Beirut": (2022, 2026),
    "America/Havana": (2025, 2026),
    "America/Asuncion": (2023, 2024),
    "Europe/Dublin": (2026, 2027),
    "Pacific/Chatham": (2026, 2027),
    "Asia/Pyongyang": (2015, 2018),
    "America/Caracas": (2007, 2016),
    "Asia/Kathmandu": (1985,),
    "America/St_Johns": (2006, 2026),
    "Pacific/Kwajalein": (1993,),
    "America/Sao_Paulo": (2017, 2018),
}
CRONTABS = (
    crontab(minute="*/15"),
    crontab(minute=7, hour="*"),
    crontab(minute=30, hour=2),
    crontab(minute="0,59", hour="0-3,22-23"),
    crontab(minute="*/20", hour="*/2"),
    crontab(minute=0, hour=0),
    crontab(minute=30, hour=1, day_of_week="sun,fri"),
    crontab(minute="*/30", day_of_month="1,29-31"),
)


def changes(zone: ZoneInfo, year: int) -> list[int]:
    """Return the moments of a year at which the zone's offset changes, found by looking hourly."""
    begin = int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp())
    offsets = {
        at: dt.datetime.fromtimestamp(at, zone).utcoffset()
        for at in range(begin, begin + 366 * 86400, 1800)
    }
    return [later for earlier, later in pairwise(offsets) if offsets[earlier] != offsets[later]]


def readings(zone: ZoneInfo, begin: int, end: int) -> list[tuple[int, dt.datetime]]:
    """Look at the clock every minute."""
    return [(at, dt.datetime.fromtimestamp(at, zone)) for at in range(begin, end + 1, 60)]


def expected(tab: crontab, seen: list[tuple[int, dt.datetime]]) -> list[int]:
    """Return what is due, by what was seen: the first is only there for the next to compare."""
    due: list[int] = []
    for (_, before), (at, now) in pairwise(seen):
        last, shown = before.replace(tzinfo=None), now.replace(tzinfo=None)
        skipped = [last + dt.timedelta(minutes=n) for n in range(1, minutes(last, shown))]
        again = now.fold and len(tab.hour) < 24
        if any(matches(tab, each) for each in skipped) or (matches(tab, shown) and not again):
            due.append(at)
    return due


def minutes(before: dt.datetime, after: dt.datetime) -> int:
    return (after - before) // dt.timedelta(minutes=1)


def matches(tab: crontab, shown: dt.datetime) -> bool:
    return (
        shown.minute in tab.minute
        and shown.hour in tab.hour
        and shown.isoweekday() % 7 in tab.day_of_week
        and shown.day in tab.day_of_month
        and shown.month in tab.month_of_year
    )


def dues(
    given: Schedule, begin: float, end: float, zone: dt.tzinfo = dt.UTC, anchor: float = START
) -> list[float]:
    found: list[float] = []
    due = given.following(begin, anchor=anchor, zone=zone)
    while due is not None and due <= end:
        found.append(due)
        due = given.following(due, anchor=anchor, zone=zone)
    return found


@pytest.mark.parametrize(("name", "year"), [(name, year) for name in ZONES for year in ZONES[name]])
def test_nothing_is_missing_or_double_when_the_clocks_change(name: str, year: int) -> None:
    zone = ZoneInfo(name)
    found = changes(zone, year)
    assert found, "the zone's rules have changed: choose another year"
    for change in found:
        begin, end = change - 25 * 3600, change + 25 * 3600
        seen = readings(zone, begin, end)
        for tab in CRONTABS:
            assert dues(tab, begin, end, zone) == expected(tab, seen), str(tab)


def test_a_day_that_a_zone_leaves_out_is_due_when_it_is_over() -> None:
    apia = ZoneInfo("Pacific/Apia")
    noon = crontab(minute=0, hour=12)
    begin = dt.datetime(2011, 12, 28, 13, tzinfo=apia).timestamp()
    found = [
        dt.datetime.fromtimestamp(at, apia) for at in dues(noon, begin, begin + 2.5 * 86400, apia)
    ]
    assert [f"{each:%d %H:%M}" for each in found] == ["29 12:00", "31 00:00", "31 12:00"]
    assert "skips 12:00" in noon.remark(found[1].timestamp(), zone=apia)


def test_what_is_irregular_is_said() -> None:
    half_past_two = crontab(minute=30, hour=2)
    spring = dt.datetime(2026, 3, 29, 3, tzinfo=PARIS).timestamp()
    autumn = dt.datetime(2026, 10, 25, 2, 30, tzinfo=PARIS).timestamp()
    assert "the clock skips 02:30" in half_past_two.remark(spring, zone=PARIS)
    assert "comes twice" in half_past_two.remark(autumn, zone=PARIS)
    assert "a second time" in crontab(minute=30).remark(autumn + 3600, zone=PARIS)
    assert half_past_two.remark(autumn + 7 * 86400 + 3600, zone=PARIS) == ""


# --- intervals


def test_an_interval_is_a_grid_of_real_time_from_its_anchor() -> None:
    assert dues(schedule(0.25), START, START + 1) == [START + n / 4 for n in (1, 2, 3, 4)]
    daily = schedule(dt.timedelta(days=1))
    spring = dt.datetime(2026, 3, 28, 12, tzinfo=PARIS).timestamp()
    assert dues(daily, spring, spring + 2 * 86400, PARIS, spring) == [
        spring + 86400,
        spring + 172800,
    ]


def test_an_interval_that_is_relative_begins_with_its_unit() -> None:
    at = dt.datetime(2026, 5, 4, 10, 17, 33, tzinfo=PARIS).timestamp()
    first = schedule(7200, relative=True).following(at, anchor=at, zone=PARIS)
    assert first == dt.datetime(2026, 5, 4, 12, tzinfo=PARIS).timestamp()


@given(st.floats(0.01, 1e6), st.floats(0, 2e9), st.floats(0, 1e7), st.sampled_from([True, False]))
def test_a_due_time_of_an_interval_follows_its_predecessor(
    length: float,
    anchor: float,
    passed: float,
    relative: bool,  # noqa: FBT001 -- Hypothesis gives it
) -> None:
    every = schedule(length, relative)
    first = every.following(anchor + passed, anchor=anchor, zone=PARIS)
    assert first is not None
    assert first > anchor + passed
    second = every.following(first, anchor=anchor, zone=PARIS)
    assert second == pytest.approx(first + length, abs=2e-6)


@pytest.mark.parametrize(
    "length", [0, -1, 0.001, float("nan"), float("inf"), "5", None, True, 1e12]
)
def test_an_interval_that_makes_no_sense_is_refused(length: Any) -> None:
    with pytest.raises(ScheduleError, match="run_every: expected"):
        schedule(length)


# --- limits


def test_start_and_end_belong_to_the_sequence() -> None:
    limited = schedule(60, start="2026-01-01T00:10:00+00:00", end="2026-01-01T00:12:00+00:00")
    assert dues(limited, START, START + 9999) == [START + 600, START + 660, START + 720]
    tab = crontab(minute="*/5", tz="Europe/Paris", start="2026-01-01T01:05", end="2026-01-01T01:15")
    assert dues(tab, START - 9999, START + 9999) == [START + 300, START + 600, START + 900]


def test_a_clocked_time_comes_once_in_its_zone() -> None:
    once = clocked(dt.datetime(2026, 1, 1, 1, 30), tz="Europe/Paris")  # noqa: DTZ001
    assert dues(once, START, START + 1e8) == [START + 1800]


def test_jitter_is_the_same_each_time_and_another_for_each_run() -> None:
    every = schedule(60, jitter=30)
    delays = [every.delay("a", START + n) for n in range(100)]
    assert delays == [schedule(60, jitter=30).delay("a", START + n) for n in range(100)]
    assert 0 <= min(delays) < 3
    assert 27 < max(delays) < 30
    assert every.delay("b", START) != every.delay("a", START)
    assert schedule(60).delay("a", START) == 0


def test_an_impossible_day_is_refused_and_a_rare_one_found() -> None:
    for month, day in (("feb", 30), ("feb,apr", 31)):
        with pytest.raises(ScheduleError, match="never comes"):
            crontab(0, 0, day_of_month=day, month_of_year=month)
    rare = crontab(0, 0, day_of_week="mon", day_of_month=29, month_of_year=2)
    (due,) = dues(rare, START, START + 20 * 366 * 86400)
    assert dt.datetime.fromtimestamp(due, dt.UTC).year == 2044


def test_the_end_of_time_is_the_end() -> None:
    end = dt.datetime(9999, 12, 31, 23, 58, tzinfo=dt.UTC).timestamp()
    assert dues(crontab(), end, end + 1e9)[:1] == [end + 60]
    assert crontab().following(end + 60, anchor=0, zone=dt.UTC) is None


# --- other kinds


def test_a_rule_of_a_calendar_is_of_its_zone() -> None:
    friday = rrule("FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0", tz="Europe/Paris")
    found = [dt.datetime.fromtimestamp(at, PARIS) for at in dues(friday, START, START + 8e6)]
    assert [f"{each:%m-%d %H:%M}" for each in found] == [
        "01-30 17:00",
        "02-27 17:00",
        "03-27 17:00",
    ]


def test_a_rule_that_a_change_of_the_clock_skips_is_due_after_it() -> None:
    daily = rrule("FREQ=DAILY;BYHOUR=2;BYMINUTE=30;BYSECOND=0")
    begin = dt.datetime(2026, 3, 28, 12, tzinfo=PARIS).timestamp()
    due = daily.following(begin, anchor=begin, zone=PARIS)
    assert due is not None
    assert due == dt.datetime(2026, 3, 29, 3, tzinfo=PARIS).timestamp()
    assert "skips" in daily.remark(due, zone=PARIS)


def test_a_rule_for_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(ScheduleError, match="never comes"):
        rrule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30")


def test_the_midnight_sun_sets_weeks_later() -> None:
    sunset = solar("sunset", 69.65, 18.96)
    may = dt.datetime(2026, 5, 19, tzinfo=dt.UTC).timestamp()
    due = sunset.following(may, anchor=0, zone=dt.UTC)
    assert due is not None
    assert dt.datetime.fromtimestamp(due, dt.UTC).month == 7
    assert "day before" in sunset.remark(due, zone=dt.UTC)


@pytest.mark.parametrize(
    "make",
    [
        lambda: solar("sunsett", 1, 1),
        lambda: solar("sunset", 91, 1),
        lambda: solar("sunset", 1, float("nan")),
        lambda: rrule("FREQ=NEVER"),
        lambda: rrule("FREQ=SECONDLY"),
        lambda: rrule("FREQ=HOURLY"),
        lambda: rrule("FREQ=DAILY;COUNT=3"),
        lambda: rrule("RRULE:FREQ=DAILY\nEXDATE:20260101T000000"),
        lambda: rrule(5),  # type: ignore[arg-type]
        lambda: rrule("x" * 2000),
        lambda: crontab(minute="1," * 300 + "1"),
        lambda: crontab(tz="Europe/Atlantis"),
        lambda: crontab(tz="../../etc/passwd"),
        lambda: crontab(jitter=-1),
        lambda: crontab(start="tomorrow"),
        lambda: clocked("2026-13-01"),
        lambda: maybe_schedule(object()),
        lambda: maybe_schedule({"kind": "eval"}),
        lambda: maybe_schedule({"kind": "crontab", "__class__": 1}),
        lambda: from_text("whenever"),
        lambda: from_text(""),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises((ScheduleError, ImproperlyConfigured)):
        make()


@pytest.mark.parametrize(("field", "text"), [("minute", "60"), ("hour", "1-"), ("minute", "*/0")])
def test_the_field_that_cannot_be_read_is_named(field: str, text: str) -> None:
    with pytest.raises(ParseException, match=field):
        crontab(**{field: text})


# --- forms

KINDS: tuple[Schedule, ...] = (
    schedule(30, relative=True),
    schedule(dt.timedelta(hours=1), tz=PARIS, jitter=3),
    crontab(0, "7-19/2", "mon-fri", end=dt.datetime(2030, 1, 1, tzinfo=dt.UTC)),
    crontab(minute=[30, 0]),
    clocked("2030-01-01T12:00"),
    solar("dusk_civil", -33.9, 151.2),
    rrule("FREQ=WEEKLY", dtstart="2026-01-01T07:00"),
)


@pytest.mark.parametrize("given", KINDS, ids=str)
def test_json_and_pickles_say_the_same(given: Schedule) -> None:
    for again in (
        from_json(json.loads(json.dumps(given.facts))),
        pickle.loads(pickle.dumps(given)),
    ):
        assert again == given
        assert hash(again) == hash(given)
        assert again.following(START, anchor=START, zone=PARIS) == given.following(
            START, anchor=START, zone=PARIS
        )
    assert given != schedule(31)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("every 30 s", schedule(30)),
        ("every 1.5h", schedule(5400)),
        ("0 7 * * mon-fri", crontab(0, 7, "mon-fri")),
        ("crontab */5 * 1 * *", crontab("*/5", day_of_month=1)),
        ("once 2030-01-01 12:00", clocked("2030-01-01T12:00")),
        ("sunset 48.9 -2.3", solar("sunset", 48.9, -2.3)),
        ("rrule FREQ=DAILY", rrule("FREQ=DAILY")),
    ],
)
def test_text_is_read(text: str, same: Schedule) -> None:
    assert maybe_schedule(text) == same


def test_numbers_and_timedeltas_are_intervals() -> None:
    assert maybe_schedule(30) == maybe_schedule(dt.timedelta(seconds=30.0)) == schedule(30)
    assert maybe_schedule(3600, relative=True) == schedule(3600, relative=True)
