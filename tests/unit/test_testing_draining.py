"""Running what waits on memory://, here and now."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from umbel import Task, Umbel, chain, chord, current_task
from umbel.context import reporter
from umbel.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    NotRegistered,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
)
from umbel.testing import FakeClock, NotIdle, Run, in_memory, run_for, run_until_idle
from umbel.testing.clock import START
from umbel.wire.result import decode_meta


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(clock: FakeClock) -> Iterator[Umbel]:
    made = Umbel("drained", set_as_current=False)
    with in_memory(made, clock=clock):
        yield made


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def note(app: Umbel, told: list[Any]) -> Task[..., Any]:
    @app.task(name="note")
    def note(value: Any) -> None:
        told.append(value)

    return note


def states_of(ran: list[Run]) -> list[tuple[str, str]]:
    return [(run.task, run.state) for run in ran]


def test_what_waits_runs_in_this_thread_and_what_follows_too(app: Umbel) -> None:
    threads: list[threading.Thread] = []

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        threads.append(threading.current_thread())
        return x + y

    result = chain(add.s(1, 2), add.s(3)).delay()
    ran = run_until_idle(app)
    assert [(run.args, run.value, run.state, run.queue) for run in ran] == [
        ([1, 2], 3, "SUCCESS", "celery"),
        ([3, 3], 6, "SUCCESS", "celery"),
    ]
    assert result.get(timeout=1) == 6
    assert set(threads) == {threading.current_thread()}
    assert run_until_idle(app) == []


def test_chords_and_replacements(app: Umbel) -> None:
    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="swap", bind=True)
    def swap(self: Task[..., Any], x: int) -> Any:
        return self.replace(double.s(x))

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    result: Any = chord([double.s(1), swap.s(2)])(total.s())
    ran = run_until_idle(app)
    assert [(run.task, run.args, run.state) for run in ran] == [
        ("double", [1], "SUCCESS"),
        ("swap", [2], "IGNORED"),
        ("double", [2], "SUCCESS"),
        ("total", [[2, 4]], "SUCCESS"),
    ]
    assert result.get(timeout=1) == 6


def test_priorities_are_kept_even_for_what_is_sent_meanwhile(
    app: Umbel, note: Task[..., Any], told: list[Any]
) -> None:
    @app.task(name="urge")
    def urge() -> None:
        note.apply_async(("urgent",), priority=9)

    note.apply_async(("low",), priority=1)
    urge.apply_async(priority=5)
    run_until_idle(app)
    assert told == ["urgent", "low"]


def test_delayed_calls_run_when_the_clock_says_so(
    app: Umbel, note: Task[..., Any], told: list[Any], clock: FakeClock
) -> None:
    note.apply_async(("later",), countdown=7200)
    note.apply_async(("soon",), countdown=60)
    assert run_until_idle(app) == []
    clock.advance(60)
    (run,) = run_until_idle(app)
    assert (run.args, run.due_at) == (["soon"], START + 60)
    run_until_idle(app, advance=True)
    assert told == ["soon", "later"]
    assert clock.now() == START + 7200


def test_run_for_lets_time_pass(
    app: Umbel, note: Task[..., Any], told: list[Any], clock: FakeClock
) -> None:
    @app.task(name="every_minute")
    def every_minute() -> None:
        told.append(clock.now() - START)
        every_minute.apply_async(countdown=60)

    every_minute.delay()
    note.apply_async(("never",), countdown=1000)
    assert len(run_for(app, timedelta(minutes=3))) == 4
    assert told == [0, 60, 120, 180]
    run_for(app, 30)
    assert clock.now() - START == 210


def test_retries_wait_as_the_task_says(app: Umbel, clock: FakeClock) -> None:
    at: list[float] = []

    @app.task(bind=True, name="flaky", max_retries=2)
    def flaky(self: Task[..., Any], x: int) -> str:
        at.append(clock.now() - START)
        if self.request.retries < 2:
            raise self.retry(countdown=10, args=(x + 1,))
        return f"{x} at last"

    @app.task(name="policy", autoretry_for=(KeyError,), max_retries=1, default_retry_delay=100)
    def policy() -> None:
        raise KeyError("k")

    flaky.delay(0)
    ran = run_until_idle(app, advance=True)
    assert [(run.state, run.retries, run.args) for run in ran] == [
        ("RETRY", 0, [0]),
        ("RETRY", 1, [1]),
        ("SUCCESS", 2, [2]),
    ]
    assert (at, ran[-1].value) == ([0, 10, 20], "2 at last")
    policy.delay()
    with pytest.raises(KeyError, match="k"):
        run_until_idle(app, advance=True)
    assert clock.now() - START == 120


def test_a_failure_is_raised_when_all_that_follows_is_committed(
    app: Umbel, note: Task[..., Any], told: list[Any]
) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    result = fail.apply_async(link_error=note.s())
    note.delay("after")
    with pytest.raises(ValueError, match="no") as caught:
        run_until_idle(app)
    assert caught.value.__notes__ == [f"FAILURE of fail() [{result.id}]"]
    assert result.state == "FAILURE"
    run_until_idle(app)
    assert told == ["after", result.id]


def test_failures_are_returned_if_asked(app: Umbel) -> None:
    @app.task(name="fail", acks_on_failure_or_timeout=False)
    def fail() -> None:
        raise ValueError("no")

    fail.delay()
    (run,) = run_until_idle(app, propagate=False)
    assert (run.state, repr(run.error)) == ("FAILURE", "ValueError('no')")
    assert run.dead.startswith("the task failed, and acks_on_failure")
    ledger = app.servers().ledger
    assert ledger is not None
    assert [letter.message.id for letter in ledger.dead_letters()] == [run.id]


def test_what_is_not_meant_for_the_task_is_always_raised(app: Umbel) -> None:
    @app.task(name="stop")
    def stop() -> None:
        raise KeyboardInterrupt

    stop.delay()
    with pytest.raises(KeyboardInterrupt):
        run_until_idle(app, propagate=False)


def test_calls_that_do_not_run(app: Umbel, note: Task[..., Any], told: list[Any]) -> None:
    @app.task(name="refuse")
    def refuse() -> None:
        raise Reject("no", requeue=False)

    note.apply_async(("late",), countdown=60, expires=30)
    note.apply_async(("silent",), countdown=60, expires=30, ignore_result=True)
    note.delay("revoked").revoke()
    refuse.delay()
    ran = run_until_idle(app, advance=True)
    assert [(run.task, run.state, str(run.error), run.dead) for run in ran] == [
        ("note", "REVOKED", "revoked", ""),
        ("refuse", "REJECTED", "reject requeue=False: no", "rejected by the task: 'no'"),
        ("note", "REVOKED", "expired", ""),
        ("note", "REVOKED", "expired", ""),
    ]
    assert isinstance(ran[0].error, TaskRevokedError)
    assert told == []


def test_a_task_that_nobody_knows(app: Umbel) -> None:
    app.send_task("nowhere.job")
    with pytest.raises(NotRegistered, match=r"nowhere\.job"):
        run_until_idle(app)
    ran = run_until_idle(app, advance=True, propagate=False)
    assert {run.state for run in ran[:-1]} == {"RETRY"}
    assert (ran[-1].state, ran[-1].dead[:14]) == ("FAILURE", "NotRegistered:")


def test_results_that_cannot_travel_are_failures(app: Umbel) -> None:
    @app.task(name="bad")
    def bad() -> Any:
        return object()

    bad.delay()
    with pytest.raises(EncodeError, match="cannot be stored"):
        run_until_idle(app)


def test_coroutine_tasks(app: Umbel) -> None:
    @app.task(name="look", bind=True, acks_late=False, soft_time_limit=0.05)
    async def look(self: Task[..., Any], *, wait: float) -> Any:
        await asyncio.sleep(wait)
        return self.request.id

    first, second = look.delay(wait=0), look.delay(wait=60)
    ran = run_until_idle(app, propagate=False)
    assert (ran[0].value, type(ran[1].error)) == (first.id, SoftTimeLimitExceeded)
    assert (first.get(timeout=1), second.state) == (first.id, "FAILURE")

    async def in_a_loop() -> list[Run]:
        await look.adelay(wait=0)
        return run_until_idle(app)

    assert states_of(asyncio.run(in_a_loop())) == [("look", "SUCCESS")]


def test_acknowledgement_before_the_run_is_kept(app: Umbel) -> None:
    transport = app.servers().broker.transport
    held: dict[str, int] = {}

    @app.task(name="early", acks_late=False)
    def early() -> None:
        held["early"] = transport.depth(["celery"])["celery"].held

    @app.task(name="late")
    def late() -> None:
        held["late"] = transport.depth(["celery"])["celery"].held

    early.delay()
    late.delay()
    run_until_idle(app)
    assert held == {"early": 0, "late": 1}


def test_progress_is_reported(app: Umbel) -> None:
    @app.task(bind=True, name="slow", track_started=True)
    def slow(self: Task[..., Any]) -> None:
        self.update_state(state="HALF", meta=50)

    watch = app.servers().results.watch()
    watch.add([slow.delay().id])
    run_until_idle(app)
    stored = [decode_meta(meta)["status"] for _, meta in watch.receive(0)]
    assert stored == ["STARTED", "HALF", "SUCCESS"]


def test_nothing_of_a_task_is_left_in_the_test(app: Umbel, note: Task[..., Any]) -> None:
    before = reporter.get()
    note.delay(1)
    run_until_idle(app)
    assert (current_task(), reporter.get()) == (None, before)


def test_soft_time_limits_hold(app: Umbel) -> None:
    @app.task(name="spin", soft_time_limit=0.05)
    def spin() -> None:
        while True:
            pass

    spin.delay()
    with pytest.raises(SoftTimeLimitExceeded):
        run_until_idle(app)


def test_only_some_queues(app: Umbel, note: Task[..., Any], told: list[Any]) -> None:
    note.apply_async((1,), queue="a")
    note.apply_async((2,), queue="b", countdown=5)
    note.apply_async((3,), queue="b")
    run_until_idle(app, queues=["b"])
    assert told == [3]
    run_until_idle(app, queues=["b"], advance=True)
    assert told == [3, 2]


def test_queues_that_come_into_being_are_served(app: Umbel, note: Task[..., Any]) -> None:
    @app.task(name="branch")
    def branch() -> None:
        note.apply_async((1,), queue="new")

    branch.delay()
    assert states_of(run_until_idle(app)) == [("branch", "SUCCESS"), ("note", "SUCCESS")]


def test_a_loop_without_end_is_told(app: Umbel) -> None:
    @app.task(name="again")
    def again() -> None:
        again.delay()

    again.delay()
    with pytest.raises(NotIdle, match=r"20 tasks ran and more wait \(again: 20\): does one send"):
        run_until_idle(app, limit=20)
    assert app.servers().broker.transport.depth(["celery"])["celery"].ready == 1


def test_only_memory_and_only_a_clock_that_moves(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"needs the broker memory://, not sqlite"):
        run_until_idle(Umbel("s", f"sqlite:///{tmp_path}/s.db", set_as_current=False))
    app = Umbel("m", f"memory://{request.node.name}", set_as_current=False)
    app.send_task("job", countdown=60)
    assert run_until_idle(app) == []
    with pytest.raises(ImproperlyConfigured, match="only a FakeClock can be moved"):
        run_until_idle(app, advance=True)
    with pytest.raises(ImproperlyConfigured, match="only a FakeClock can be moved"):
        run_for(app, 1)
