"""Schedulers on a server in memory, with a clock that the test moves: turn by turn, no sleep."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from umbel import Umbel
from umbel.beat import Scheduler, scheduler_for
from umbel.beat.lead import lead_and_timetable
from umbel.beat.scheduler import SchedulerPlan
from umbel.beat.sending import Sending, tick_id
from umbel.exceptions import ImproperlyConfigured
from umbel.ids import new_id
from umbel.schedules import ScheduleError, crontab, schedule
from umbel.scheduling.changes import Shown
from umbel.testing.clock import START, FakeClock
from umbel.testing.flaky import AFTER, BEFORE, Fault, FlakyServer, chance


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(clock: FakeClock) -> Iterator[Umbel]:
    app = Umbel(
        "shop",
        broker=f"memory://{new_id()}",
        broker_transport_options={"clock": clock},
        set_as_current=False,
    )

    @app.task(name="tick")
    def tick(number: int = 0) -> int:
        return number

    yield app
    app.close()


def scheduler(app: Umbel) -> Scheduler:
    made = scheduler_for(app, f"beat-{new_id()}")
    made.turn()
    return made


def run(clock: FakeClock, seconds: float, *schedulers: Scheduler, step: float = 0.5) -> None:
    """Let time pass in steps, with a turn of each scheduler after each."""
    for _ in range(round(seconds / step)):
        clock.advance(step)
        for each in schedulers:
            each.turn()


def sent(app: Umbel) -> list[Any]:
    """Receive and end all that was sent."""
    transport = app.servers().broker.transport
    consumer = transport.consume(["celery"], consumer_id=new_id(), lease=1e6)
    found = [delivery.message for delivery in consumer.receive(10_000, timeout=0)]
    consumer.close()
    transport.purge(["celery"])
    return found


def discard_queues(app: Umbel) -> None:
    """Forget all queues, as a server does that lost its data."""
    space = app.servers().broker.transport._space  # type: ignore[attr-defined]
    space.lines.clear()
    space.bindings.clear()
    space.exchanges.clear()


def shown(app: Umbel, name: str) -> Shown:
    return {each.entry.name: each for each in app.schedule.list()}[name]


# --- what is sent


def test_entries_of_settings_and_of_code_are_sent_in_time(app: Umbel, clock: FakeClock) -> None:
    @app.on_after_configure.connect(weak=False)
    def declare(sender: Umbel, **_: object) -> None:
        sender.add_periodic_task(5, sender.tasks["tick"].s(5), name="five", priority=3)

    app.conf.beat_schedule = {
        "two": {"task": "tick", "schedule": dt.timedelta(seconds=2), "args": (2,)},
        "cron": {"task": "tick", "schedule": crontab(), "kwargs": {"number": 60}},
    }
    run(clock, 60, scheduler(app))
    found = Counter(message.body.decode()[:20] for message in sent(app))
    assert sorted(found.values()) == [1, 12, 30]


def test_messages_are_marked_as_celerys_and_their_ids_are_those_of_the_due_time(
    app: Umbel, clock: FakeClock
) -> None:
    app.conf.beat_schedule = {
        "a": {"task": "tick", "schedule": 1, "options": {"headers": {"x": 1}, "expires": 9}}
    }
    run(clock, 3, scheduler(app))
    messages = sent(app)
    assert len({message.id for message in messages}) == 3
    assert messages[0].headers["celery_beat_task"] is True
    assert messages[0].headers["x"] == 1
    assert messages[0].headers["id"] == messages[0].id
    assert messages[0].expires_at == START + 1 + 9


def test_a_bad_entry_is_told_of_and_stops_no_other(
    app: Umbel, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.beat_schedule = {
        "no-schedule": {"task": "tick"},
        "misspelt": {"task": "tick", "schedule": 1, "option": {}},
        "number": 5,
        "good": {"task": "tick", "schedule": 1},
        "arguments": {"task": "tick", "schedule": 1, "args": (1, 2, 3)},
    }
    timetable = app.servers().broker.timetable
    assert timetable is not None
    timetable.put(app.schedule.table, "garbage", "{", before=None)
    timetable.put(app.schedule.table, "hostile", '{"schedule": {"kind": "os"}}', before=None)
    run(clock, 3, scheduler(app), step=1)
    assert len(sent(app)) == 3
    text = caplog.text
    for word in ("no-schedule", "did you mean 'options'", "number", "garbage", "hostile"):
        assert word in text
    assert text.count("arguments: the run due at") == 3
    state = shown(app, "arguments").state
    assert state is not None
    assert "not sent: TypeError" in state.note


def test_a_queue_that_cannot_be_reached_loses_its_run_and_no_other(
    app: Umbel, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.task_create_missing_queues = False
    app.conf.beat_schedule = {
        "lost": {"task": "tick", "schedule": 1, "options": {"queue": "nowhere"}},
        "good": {"task": "tick", "schedule": 1},
    }
    run(clock, 2, scheduler(app), step=1)
    assert len(sent(app)) == 2
    assert "cannot be sent" in caplog.text


# --- who leads


def test_one_of_many_leads_and_another_takes_over(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1, "missed": "all"}}
    first, *others = (scheduler(app) for _ in range(4))
    assert [each.leads for each in (first, *others)] == [True, False, False, False]
    run(clock, 5, first, *others)
    run(clock, 15, *others)  # the first sleeps
    assert sum(each.leads for each in others) == 1
    run(clock, 5, first, *others)  # and wakes
    assert not first.leads
    messages = sent(app)
    assert len(messages) == len({message.id for message in messages}) == 25
    state = shown(app, "a").state
    assert state is not None
    assert (state.runs, state.missed) == (25, 0)


def test_a_leader_that_slept_sends_nothing_that_its_successor_sent(
    app: Umbel, clock: FakeClock
) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1, "missed": "all"}}
    sleeper, other = scheduler(app), scheduler(app)
    clock.advance(30)
    other.turn()
    sleeper._renew_at = clock.monotonic() + 60  # as if it had been stopped behind that look
    sleeper.turn()
    assert not sleeper.leads
    assert len(sent(app)) == 30


def test_who_stops_gives_the_lead_up(app: Umbel, clock: FakeClock) -> None:
    first, second = scheduler(app), scheduler(app)
    first.stop()
    first.run()
    run(clock, 2, second)
    assert second.leads


def test_requests_that_fail_or_are_not_answered_lose_and_double_nothing(
    app: Umbel, clock: FakeClock
) -> None:
    app.conf.beat_schedule = {
        f"entry {n}": {"task": "tick", "schedule": 1, "missed": "all"} for n in range(3)
    }
    faults: dict[Fault, float] = {BEFORE: 0.1, AFTER: 0.15}
    rates = dict.fromkeys(
        ["advance", "acquire", "revision", "progress", "entries", "declare"], faults
    )
    opened = replace(app.servers(), broker=FlakyServer(app.servers().broker, chance(3, rates)))
    table = app.schedule.table
    lead, timetable = lead_and_timetable(opened, table, "me", lease=6.0)
    plan = SchedulerPlan(table=table, name="me", lease=6.0, look=1.0, late=1.0)
    leader = Scheduler(
        app,
        plan,
        lead=lead,
        timetable=timetable,
        sending=Sending(app, opened, table),
        clock=clock,
    )
    run(clock, 300, leader)
    states = [each.state for each in app.schedule.list()]
    wanted = [
        tick_id(table, f"entry {n}", state.anchor + due)
        for n, state in enumerate(states)
        if state is not None
        for due in range(1, state.runs + 1)
    ]
    assert len(wanted) > 800
    assert sorted(message.id for message in sent(app)) == sorted(wanted)


def test_a_queue_that_the_server_forgot_is_declared_again(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1}}
    leader = scheduler(app)
    run(clock, 2, leader)
    discard_queues(app)
    run(clock, 2, leader)
    assert len(sent(app)) == 2


# --- missed runs


@pytest.mark.parametrize(
    ("rules", "runs", "missed"),
    [
        ({}, 1, 9),
        ({"missed": "one"}, 1, 9),
        ({"missed": "skip"}, 1, 9),
        ({"missed": "all"}, 10, 0),
        ({"missed": "all", "limit": 4}, 4, 6),
        ({"missed": "all", "deadline": 600}, 2, 8),
    ],
)
def test_what_was_missed_is_a_matter_of_the_policy(
    app: Umbel, clock: FakeClock, rules: dict[str, Any], runs: int, missed: int
) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 300, **rules}}
    scheduler(app).stop()
    clock.advance(3030)
    assert scheduler(app).leads
    assert len(sent(app)) == runs
    state = shown(app, "a").state
    assert state is not None
    assert (state.runs, state.missed) == (runs, missed)


def test_skip_sends_nothing_that_is_over_a_minute_late(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 300, "missed": "skip"}}
    scheduler(app)
    clock.advance(370)
    leader = scheduler(app)
    assert sent(app) == []
    run(clock, 240, leader)
    assert len(sent(app)) == 1


def test_years_of_missed_seconds_are_made_up_for_at_once(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {
        "a": {"task": "tick", "schedule": 1, "missed": "all", "limit": 1000},
        "b": {"task": "tick", "schedule": crontab()},
    }
    scheduler(app)
    clock.advance(3 * 366 * 86400 + 0.5)
    leader = scheduler(app)
    assert len(sent(app)) == 1001
    run(clock, 10, leader)
    assert len(sent(app)) == 10


def test_a_late_crontab_is_not_sent_after_its_starting_deadline(
    app: Umbel, clock: FakeClock
) -> None:
    app.conf.beat_cron_starting_deadline = 100
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": crontab(minute=0)}}
    scheduler(app)
    clock.advance(3600 - START % 3600 + 101)
    scheduler(app)
    assert sent(app) == []


# --- overlap


def test_a_run_is_skipped_while_the_last_one_waits(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 10, "overlap": "skip"}}
    leader = scheduler(app)
    run(clock, 30, leader)
    state = shown(app, "a").state
    assert state is not None
    assert (state.runs, state.missed) == (1, 2)
    assert "still waits" in state.note
    sent(app)  # takes the message away: it ends without a result, which is known a minute later
    run(clock, 60, leader)
    assert len(sent(app)) == 1


def test_a_run_is_sent_when_the_last_one_has_ended(app: Umbel, clock: FakeClock) -> None:
    from umbel.testing import run_until_idle  # noqa: PLC0415

    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 10, "overlap": "skip"}}
    leader = scheduler(app)
    for _ in range(3):
        run(clock, 10, leader)
        run_until_idle(app)
    state = shown(app, "a").state
    assert state is not None
    assert (state.runs, state.missed) == (3, 0)


# --- the clock


def test_the_clock_put_back_repeats_nothing(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1}}
    leader = scheduler(app)
    run(clock, 10, leader)
    clock.set_back(5)
    run(clock, 5, leader)
    assert len(sent(app)) == 10
    run(clock, 5, leader)
    assert len(sent(app)) == 5


def test_a_clock_that_was_years_ahead_does_not_silence_an_entry(
    app: Umbel, clock: FakeClock
) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1}}
    leader = scheduler(app)
    clock.advance(1e8)
    leader.turn()
    clock.set_back(1e8)
    sent(app)
    run(clock, 10, scheduler(app), leader)
    assert 9 <= len(sent(app)) <= 10


def test_a_jump_ahead_is_a_matter_of_the_policy(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1}}
    leader = scheduler(app)
    clock.set_back(-3600)
    leader.turn()
    assert len(sent(app)) == 1


# --- changes at run time


def test_what_is_added_changed_and_removed_is_noticed_within_a_second(
    app: Umbel, clock: FakeClock
) -> None:
    leader = scheduler(app)
    app.schedule.add("a", "tick", 1, args=[7])
    run(clock, 3, leader)
    assert 1 <= len(sent(app)) <= 3
    app.schedule.update("a", schedule=10)
    run(clock, 20, leader)
    assert 1 <= len(sent(app)) <= 3
    app.schedule.remove("a")
    run(clock, 20, leader)
    assert sent(app) == []
    assert app.schedule.list() == []


def test_what_does_not_change_the_schedule_does_not_begin_it_anew(
    app: Umbel, clock: FakeClock
) -> None:
    leader = scheduler(app)
    app.schedule.add("a", "tick", 10)
    run(clock, 8, leader)
    app.schedule.update("a", args=(1,))
    run(clock, 3, leader)
    (message,) = sent(app)
    assert b"[1]" in message.body


@pytest.mark.parametrize("where", ["code", "added"])
def test_a_paused_entry_waits_and_makes_up_for_nothing(
    app: Umbel, clock: FakeClock, where: str
) -> None:
    if where == "code":
        app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1, "missed": "all"}}
    else:
        app.schedule.add("a", "tick", 1, missed="all")
    leader = scheduler(app)
    app.schedule.pause("a")
    assert shown(app, "a").next_at is None
    run(clock, 60, leader)
    assert len(sent(app)) <= 1
    app.schedule.resume("a")
    run(clock, 10, leader)
    assert 9 <= len(sent(app)) <= 11


def test_an_entry_can_be_run_now(app: Umbel) -> None:
    app.schedule.add("a", "tick", 1000, args=[3], paused=True)
    result = app.schedule.run_now("a")
    (message,) = sent(app)
    assert message.id == result.id
    assert message.headers["celery_beat_task"] is True


def test_outcomes_are_asked_for_all_at_once(
    app: Umbel, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from umbel.testing import run_until_idle  # noqa: PLC0415

    app.conf.beat_schedule = {name: {"task": "tick", "schedule": 1.0} for name in "abc"}
    leader = scheduler(app)
    run(clock, 1, leader)
    run_until_idle(app)
    store, asked = app.bridge.store, list[int]()
    get = store.get

    def counted(task_ids: Sequence[str]) -> dict[str, bytes]:
        asked.append(len(task_ids))
        return get(task_ids)

    monkeypatch.setattr(store, "get", counted)
    assert [each.outcome for each in app.schedule.list()] == ["SUCCESS"] * 3
    run(clock, 1, leader)
    assert [each.outcome for each in app.schedule.list()] == ["PENDING"] * 3
    assert asked == [3, 3]


def test_code_and_changes_do_not_mix(app: Umbel) -> None:
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1}}
    changes = app.schedule
    with pytest.raises(ScheduleError, match="'a' is declared in the code"):
        changes.add("a", "tick", 1)
    with pytest.raises(ScheduleError, match="'a' is declared in the code"):
        changes.update("a", schedule=2)
    with pytest.raises(ScheduleError, match="'a' is declared in the code"):
        changes.remove("a")
    changes.add("b", "tick", 1)
    with pytest.raises(ScheduleError, match="there is an entry 'b' already"):
        changes.add("b", "tick", 1)
    with pytest.raises(ScheduleError, match=r"no entry 'bb'; did you mean 'b'"):
        changes.remove("bb")


def test_an_entry_that_the_code_has_as_well_is_told_of(
    app: Umbel, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    app.schedule.add("a", "tick", 1, args=[1])
    app.conf.beat_schedule = {"a": {"task": "tick", "schedule": 1, "args": [2]}}
    run(clock, 1, scheduler(app))
    (message,) = sent(app)
    assert b"[2]" in message.body
    assert "the code's of that name wins" in caplog.text


@pytest.mark.parametrize(
    "add",
    [
        lambda changes: changes.add("", "tick", 1),
        lambda changes: changes.add("a\n", "tick", 1),
        lambda changes: changes.add("a" * 201, "tick", 1),
        lambda changes: changes.add("a", "", 1),
        lambda changes: changes.add("a", "tick", 0),
        lambda changes: changes.add("a", "tick", 1, args=[object()]),
        lambda changes: changes.add("a", "tick", 1, args=["x" * 300_000]),
        lambda changes: changes.add("a", "tick", 1, kwargs={1: 2}),
        lambda changes: changes.add("a", "tick", 1, options={"task_id": "same"}),
        lambda changes: changes.add("a", "tick", 1, options={"qeue": "x"}),
        lambda changes: changes.add("a", "tick", 1, options={"countdown": "x"}),
        lambda changes: changes.add("a", "tick", 1, missed="never"),
        lambda changes: changes.add("a", "tick", 1, limit=10**9),
        lambda changes: changes.add("a", "tick", 1, limit="x"),
        lambda changes: changes.add("a", "tick", 1, deadline=float("nan")),
        lambda changes: changes.add("a", "tick", schedule(1, end="2020-01-01T00:00:00+00:00")),
        lambda changes: changes.add("a", "tick", "once 2020-01-01T00:00"),
    ],
)
def test_hostile_entries_are_refused_when_they_are_added(
    app: Umbel, add: Callable[[Any], object]
) -> None:
    with pytest.raises(ScheduleError):
        add(app.schedule)
    assert app.schedule.list() == []


def test_the_next_runs_are_told_with_reasons(app: Umbel, clock: FakeClock) -> None:
    begin = dt.datetime(2026, 10, 24, 12, tzinfo=dt.UTC).timestamp()
    clock.advance(begin - START) if begin > START else clock.set_back(START - begin)
    app.conf.timezone = "Europe/Paris"
    app.schedule.add("a", "tick", crontab(30, 2, end="2026-10-27T00:00"))
    runs = app.schedule.outlook("a")
    assert [bool(run.remark) for run in runs] == [True, True]
    assert "comes twice" in runs[0].remark
    assert "the last one" in runs[1].remark


def test_without_a_ledger_entries_cannot_be_added() -> None:
    app = Umbel("shop", broker="amqp://localhost:1/", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="ledger_url"):
        app.schedule.add("a", "tick", 1)


def test_ten_thousand_entries_and_a_thousand_at_once(app: Umbel, clock: FakeClock) -> None:
    app.conf.beat_schedule = {
        f"entry {n}": {"task": "tick", "schedule": 5 if n < 1000 else 1e6} for n in range(10_000)
    }
    leader = scheduler(app)
    looked: list[str] = []
    for planned in leader._agenda.planned.values():
        planned.following = _watched(planned.following, looked, planned.entry.name)
    clock.advance(5)
    leader.turn()
    assert len(sent(app)) == 1000
    assert len(set(looked)) == 1000


def _watched(following: Any, looked: list[str], name: str) -> Any:
    def watched(at: float) -> float | None:
        looked.append(name)
        found: float | None = following(at)
        return found

    return watched
