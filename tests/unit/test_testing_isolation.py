"""An application with a broker of its own, and a worker beside the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import Task, Umbel, context
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ImproperlyConfigured
from umbel.servers import memory
from umbel.testing import FakeClock, enqueued, in_memory, run_until_idle, running_worker
from umbel.testing.calls import memory_transport


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Umbel]:
    former = context.current_app_or_none()
    with Umbel("shop", f"memory://{request.node.name}", timezone="Europe/Paris") as made:
        yield made
    context.set_current_app(former)


@pytest.fixture
def double(app: Umbel) -> Task[..., int]:
    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    return double


def test_an_application_gets_its_own_broker_for_a_block(
    app: Umbel, double: Task[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.delay(1)
    monkeypatch.setenv("UMBEL_TIMEZONE", "Asia/Tokyo")
    url, other = app.conf.broker_url, Umbel("other")
    with in_memory(app, {"task_always_eager": False}) as clock:
        assert context.current_app() is app
        assert app.conf.source_of("broker_url") == "the test"
        assert enqueued(app) == []
        double.delay(2)
        app.conf.task_always_eager = True
        assert double.delay(3).get() == 6
        space = str(app.conf.broker_url).partition("://")[2]
        assert (space in memory._spaces, clock.now()) == (True, clock.now())
    assert context.current_app() is other
    assert (app.conf.broker_url, app.conf.task_always_eager) == (url, False)
    assert space not in memory._spaces
    assert [call.args for call in enqueued(app)] == [[1]]


def test_variables_of_the_environment_do_not_count_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_BROKER_URL", "redis://production")
    monkeypatch.setenv("UMBEL_RESULT_BACKEND", "redis://production")
    monkeypatch.setenv("UMBEL_TIMEZONE", "Asia/Tokyo")
    app = Umbel("shop", set_as_current=False)
    with in_memory(app):
        assert str(app.conf.broker_url).startswith("memory://test-")
        assert (app.conf.result_backend, app.conf.timezone) == (None, None)
    assert app.conf.broker_url == "redis://production"
    assert app.conf.timezone == "Asia/Tokyo"


def test_another_broker_may_be_chosen(app: Umbel) -> None:
    with in_memory(app, {"broker_url": "redis://nowhere"}):
        assert app.conf.broker_transport_options == {}
    with pytest.raises(ImproperlyConfigured, match="brokr_url"), in_memory(app, {"brokr_url": "x"}):
        pass
    assert str(app.conf.broker_url).startswith("memory://")


def test_a_worker_in_threads(app: Umbel, double: Task[..., int]) -> None:
    with in_memory(app), running_worker(app) as worker:
        assert double.delay(2).get(timeout=60) == 4
        assert double.apply_async((2,), countdown=0.01).get(timeout=60) == 4
        double.delay(3)
        worker.wait_until_idle()
        assert enqueued(app) == []

        async def ask() -> int:
            return await (await double.adelay(5)).aget(timeout=60)

        assert asyncio.run(ask()) == 10


def test_its_clock_can_be_moved(app: Umbel, double: Task[..., int]) -> None:
    with in_memory(app) as clock, running_worker(app):
        space = memory_transport(app)._space
        for _ in range(3):
            result = double.apply_async((2,), countdown=3600)
            while not any(each.bell._silence.locked() for each in space.waiting):
                pass  # until the worker has seen the message, and waits for its time
            assert not result.ready()
            clock.advance(3600)
            assert result.get(timeout=1) == 4


def test_it_imports_what_workers_import(
    app: Umbel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import umbel\n@umbel.current_app().task(name={!r})\ndef job(): return 1"
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("late_one", "late_two"):
        (tmp_path / f"{name}.py").write_text(text.format(name))
    with in_memory(app, {"imports": ["late_one"]}):
        app.send_task("late_one")
        assert [run.value for run in run_until_idle(app)] == [1]
    with in_memory(app, {"include": ["late_two"]}), running_worker(app):
        assert app.send_task("late_two").get(timeout=60) == 1


def test_rate_limits_are_counted_by_its_clock(app: Umbel) -> None:
    at: list[float] = []

    @app.task(name="limited", rate_limit="2/s")
    def limited() -> None:
        at.append(SYSTEM_CLOCK.monotonic())

    with in_memory(app) as clock, running_worker(app) as worker:
        clock.advance(3600)
        for result in [limited.delay(), limited.delay()]:
            result.get(timeout=60)
        worker.wait_until_idle()
    assert at[1] - at[0] > 0.35


def test_threads_run_tasks_side_by_side(app: Umbel) -> None:
    both = threading.Barrier(2)

    @app.task(name="meet")
    def meet() -> int:
        return both.wait(60)

    with in_memory(app), running_worker(app, pool="threads", concurrency=2):
        results = [meet.delay(), meet.delay()]
        assert sorted(each.get(timeout=60) for each in results) == [0, 1]


def test_only_its_queues(app: Umbel, double: Task[..., int]) -> None:
    with in_memory(app), running_worker(app, queues=["a"]) as worker:
        double.apply_async((1,), queue="b")
        assert double.apply_async((1,), queue="a").get(timeout=60) == 2
        assert worker.queues == ["a"]
        assert [call.queue for call in enqueued(app)] == ["b"]


def test_failures_are_logged(app: Umbel, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    with in_memory(app), running_worker(app) as worker:
        fail.delay()
        worker.wait_until_idle()
    assert "ValueError: no" in caplog.text
    assert "fail[" in caplog.text


def test_waiting_for_an_idle_worker_ends(app: Umbel) -> None:
    go_on = threading.Event()

    @app.task(name="hang")
    def hang() -> None:
        go_on.wait(60)

    with in_memory(app), running_worker(app) as worker:
        hang.delay()
        with pytest.raises(AssertionError, match=r"waited 0.05 s for empty queues \['celery'\]"):
            worker.wait_until_idle(0.05)
        go_on.set()
        worker.wait_until_idle()


def test_worn_children_are_not_of_this_process(app: Umbel, double: Task[..., int]) -> None:
    with in_memory(app, {"worker_max_tasks_per_child": 1}), running_worker(app):
        assert [double.delay(n).get(timeout=60) for n in range(3)] == [0, 2, 4]


def test_processes_are_refused(app: Umbel) -> None:
    pool: Any = "prefork"
    with pytest.raises(ValueError, match="expected the pool solo or threads, got 'prefork'"):  # noqa: SIM117 -- the block must not be entered
        with running_worker(app, pool=pool):
            raise AssertionError


def test_a_clock_that_goes() -> None:
    clock = FakeClock()
    clock.go()
    first = clock.now()
    clock.go()
    while clock.now() == first:
        pass
    assert first - 1_800_000_000 < 5
