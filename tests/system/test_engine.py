"""The engine in one process: what it runs, what it gives back, and what it survives."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.budget.counting import python_calls
from tests.system.engines import running
from umbel import Queue, Umbel, group
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    QueueNotFound,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
)
from umbel.message import Message
from umbel.testing.flaky import AFTER, BEFORE, DELAY, DROP, FlakyServer, chance
from umbel.testing.probe import Probe
from umbel.worker.board import Board


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Umbel]:
    url = f"memory://{tmp_path.name}"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/engine.sqlite"
    with Umbel("engine", broker=url) as made:
        yield made


def test_a_task_runs_and_its_caller_gets_the_result(app: Umbel) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with running(app):
        assert add.delay(2, 3).get(timeout=60) == 5
        assert [add.delay(n, n).get(timeout=60) for n in range(20)] == [2 * n for n in range(20)]


def test_a_task_that_retries_runs_again_until_it_is_done(app: Umbel) -> None:
    attempts: list[int] = []

    @app.task(bind=True, max_retries=5, default_retry_delay=0)
    def flaky(self: Any, wanted: int) -> int:
        attempts.append(self.request.retries)
        if self.request.retries < wanted:
            raise self.retry(countdown=0.01)
        return int(self.request.retries)

    with running(app):
        assert flaky.delay(3).get(timeout=60) == 3
    assert attempts == [0, 1, 2, 3]


def test_automatic_retries_end_with_the_tasks_own_error(app: Umbel) -> None:
    runs: list[int] = []

    @app.task(autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0)
    def broken() -> None:
        runs.append(1)
        raise ValueError("still")

    @app.task(bind=True, max_retries=0)
    def exhausted(self: Any) -> None:
        self.retry(countdown=0)

    with running(app):
        with pytest.raises(ValueError, match="still"):
            broken.delay().get(timeout=60)
        with pytest.raises(MaxRetriesExceededError):
            exhausted.delay().get(timeout=60)
    assert len(runs) == 3


def test_ignore_and_reject(app: Umbel) -> None:
    tries: list[int] = []

    @app.task
    def ignored() -> None:
        raise Ignore

    @app.task
    def refused() -> None:
        raise Reject("not mine")

    @app.task
    def later() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise Reject("later", requeue=True)
        return len(tries)

    with running(app):
        ignored.delay()
        result = refused.delay()
        assert later.delay().get(timeout=60) == 3
        with pytest.raises(Exception, match="not mine"):
            result.get(timeout=60)
    ledger = app.servers().ledger
    assert ledger is not None
    (letter,) = ledger.dead_letters()
    assert "not mine" in letter.reason


def test_links_and_chains_follow_and_errbacks_are_told(app: Umbel) -> None:
    told: list[Any] = []
    seen = threading.Event()

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def broken() -> None:
        raise KeyError("gone")

    @app.task
    def tell(request: Any, exc: BaseException, traceback: str) -> None:
        told.append((request.id, type(exc), "KeyError" in traceback))
        seen.set()

    with running(app):
        first = add.apply_async((1, 2), link=add.s(10))
        assert first.get(timeout=60) == 3
        children = first.children
        assert children is not None
        (child,) = children
        assert child.get(timeout=60) == 13
        failed = broken.apply_async(link_error=tell.s())
        assert seen.wait(60)
    assert told == [(failed.id, KeyError, True)]


def test_countdown_expiry_and_revocation(app: Umbel) -> None:
    @app.task
    def now() -> float:
        return SYSTEM_CLOCK.now()

    sent_at = SYSTEM_CLOCK.now()
    late = now.apply_async(countdown=0.4)
    expired = now.apply_async(expires=-1)
    revoked = now.delay()
    ledger = app.servers().ledger
    assert ledger is not None
    ledger.revoke([revoked.id], expires_in=60)
    with running(app):
        assert late.get(timeout=60) - sent_at >= 0.4
        for result in (expired, revoked):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=60)


def test_priorities_are_served_in_order(app: Umbel) -> None:
    order: list[int] = []

    @app.task
    def note(priority: int) -> None:
        order.append(priority)

    results = [note.apply_async((p,), priority=p) for p in (0, 9, 5, 3, 6)]
    with running(app):
        for result in results:
            result.get(timeout=60)
    assert order == [9, 6, 5, 3, 0]


def test_a_soft_limit_reaches_a_task_in_any_pool(app: Umbel) -> None:
    @app.task(soft_time_limit=0.2)
    def endless() -> str:
        try:
            while True:
                SYSTEM_CLOCK.sleep(0.01)
        except SoftTimeLimitExceeded:
            return "tidied up"

    @app.task(soft_time_limit=0.2)
    async def waits() -> None:
        await asyncio.sleep(30)

    with running(app, lanes=2):
        assert endless.delay().get(timeout=60) == "tidied up"
        with pytest.raises(SoftTimeLimitExceeded):
            waits.delay().get(timeout=60)


def test_coroutine_tasks_run_at_the_same_time_and_synchronous_ones_beside_them(app: Umbel) -> None:
    begun: set[int] = set()
    all_begun = threading.Event()

    @app.task
    async def meet(number: int) -> int:
        begun.add(number)
        if len(begun) == 50:
            all_begun.set()
        await asyncio.to_thread(all_begun.wait, 60)
        return number

    @app.task
    def beside() -> str:
        return "beside"

    with running(app):
        results = [meet.delay(n) for n in range(49)]
        assert beside.delay().get(timeout=60) == "beside"
        results.append(meet.delay(49))
        assert [r.get(timeout=60) for r in results] == list(range(50))


def test_progress_can_be_seen_before_the_end(app: Umbel) -> None:
    go_on = threading.Event()

    @app.task(bind=True)
    def long(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"done": 1})
        go_on.wait(60)
        return "done"

    with running(app), Probe() as probe:
        result = long.delay()
        probe.wait_for("delivery.committed", timeout=60)
        assert (result.state, result.info) == ("PROGRESS", {"done": 1})
        go_on.set()
        assert result.get(timeout=60) == "done"


def test_what_waits_behind_a_long_task_is_given_back(app: Umbel) -> None:
    go_on = threading.Event()

    @app.task
    def quick(number: int) -> int:
        return number

    @app.task
    def long() -> None:
        go_on.wait(180)

    # Given a worker that has learnt that tasks are quick, and so fetches them by the hundred
    with running(app):
        for result in [quick.delay(n) for n in range(300)]:
            result.get(timeout=60)
        # When a long one comes with quick ones behind it
        with Probe() as probe:
            blocked = long.delay()
            results = [quick.delay(n) for n in range(50)]
            # Then another worker gets those, without waiting
            with running(app):
                assert [r.get(timeout=60) for r in results] == list(range(50))
                assert not blocked.ready()
                go_on.set()
            blocked.get(timeout=60)
            assert probe is not None


def test_a_result_is_not_held_back_by_the_long_task_behind_it(app: Umbel) -> None:
    go_on = threading.Event()

    @app.task
    def short() -> None:
        SYSTEM_CLOCK.sleep(0.0015)

    @app.task
    def long() -> None:
        go_on.wait(180)

    with running(app):
        for result in [short.delay() for _ in range(50)]:
            result.get(timeout=60)
        for _ in range(3):
            sent = group([short.s(), short.s(), short.s(), long.s()]).apply_async()
            try:
                for result in sent.results[:3]:
                    result.get(timeout=60)
                assert not sent.results[3].ready()
            finally:
                go_on.set()
            sent.results[3].get(timeout=60)
            go_on.clear()


def test_coroutine_tasks_begin_beside_a_long_synchronous_one(app: Umbel) -> None:
    go_on = threading.Event()

    @app.task
    def long() -> None:
        go_on.wait(180)

    @app.task
    def quick(number: int) -> int:
        return number

    @app.task
    async def doze(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    # Given a worker whose only lane is blocked
    with running(app), Probe() as probe:
        blocked = long.delay()
        probe.wait_for("delivery.received", timeout=60)
        try:
            # Then coroutine tasks run, one by one or behind others that need the lane
            assert [doze.delay(n).get(timeout=60) for n in range(5)] == list(range(5))
            waiting = [quick.delay(n) for n in range(3)]
            assert [doze.delay(n).get(timeout=60) for n in range(3)] == list(range(3))
            # And another worker gets those
            with running(app):
                assert [each.get(timeout=60) for each in waiting] == list(range(3))
            assert not blocked.ready()
        finally:
            go_on.set()
        blocked.get(timeout=60)
        assert quick.delay(7).get(timeout=60) == 7


def test_synchronous_tasks_begin_beside_a_full_loop(app: Umbel) -> None:
    ended = threading.Event()

    @app.task
    def quick(number: int) -> int:
        return number

    @app.task
    async def wait() -> None:
        await asyncio.to_thread(ended.wait, 180)

    # Given a worker that runs as many coroutine tasks as it may, with more of them waiting
    board = Board(1, entries=1 + 20)
    with running(app, board=board), Probe() as probe:
        waiting = [wait.delay() for _ in range(25)]
        probe.wait_until(lambda: len(board.slots[0].running()) == 20, "a full loop")
        try:
            # Then synchronous ones that wait behind those run all the same
            assert [quick.delay(n).get(timeout=60) for n in range(3)] == list(range(3))
        finally:
            ended.set()
        for each in waiting:
            each.get(timeout=60)


def test_an_idle_worker_sleeps(app: Umbel) -> None:
    @app.task
    async def doze() -> None:
        await asyncio.sleep(0)

    board = Board(1, entries=2)
    with running(app, board=board):
        doze.delay().get(timeout=60)
        turns = set[float]()
        deadline = SYSTEM_CLOCK.monotonic() + 1.5
        while SYSTEM_CLOCK.monotonic() < deadline:
            turns.add(board.slots[0].turned_at)
            SYSTEM_CLOCK.sleep(0.005)
    assert len(turns) < 6


def test_what_needs_a_blocked_lane_is_not_handed_back_again_and_again(app: Umbel) -> None:
    go_on = threading.Event()

    @app.task
    def long() -> None:
        go_on.wait(180)

    @app.task
    async def doze() -> None:
        await asyncio.sleep(0.001)

    with running(app), Probe() as probe:
        doze.delay().get(timeout=60)
        blocked = [long.delay() for _ in range(2)]
        try:
            probe.wait_for("delivery.given_back", timeout=60)
            SYSTEM_CLOCK.sleep(1.0)  # what happens in it is counted
            assert len(probe.seen("delivery.given_back")) < 8
        finally:
            go_on.set()
        for each in blocked:
            each.get(timeout=60)


def test_unknown_tasks_wait_for_a_worker_that_knows_them(app: Umbel) -> None:
    unknown = app.send_task("engine.newer", (1,))
    with running(app), Probe() as probe:
        probe.wait_for("delivery.committed", timeout=60)
    assert app.servers().broker.transport.depth(["celery"])["celery"].delayed == 1

    @app.task(name="engine.newer")
    def newer(x: int) -> int:
        return x

    with running(app):
        assert unknown.get(timeout=60) == 1
    assert issubclass(NotRegistered, KeyError)


@pytest.mark.parametrize(
    "damage",
    [
        {"body": b"["},
        {"body": b"[[], {}]"},
        {"body": b"[[], [], {}]"},
        {"body": b"[[], null, {}]"},
        {"headers": {}},
        {"headers": {"task": "engine.add"}},
        {"headers": {"task": None, "id": 7}},
        {"headers": {"task": ["a"], "id": "i"}},
        {"headers": {"task": "\ud800", "id": "\ud800"}},
        {"headers": {"task": "engine.add", "id": "i", "eta": 17}},
        {"headers": {"task": "engine.add", "id": "i", "timelimit": "soon"}},
        {"content_type": ""},
        {"content_type": "application/x-python-serialize"},
        {"id": "x" * 300, "headers": {"task": "engine.add", "id": "x" * 300}},
    ],
)
def test_malformed_messages_never_stop_a_worker(app: Umbel, damage: dict[str, Any]) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 1)  # declares the queue
    good = Message("i", b"[[1, 2], {}, {}]", {"task": "engine.add", "id": "i"}, "celery")
    poison = dataclasses.replace(good, **damage)
    deadline = SYSTEM_CLOCK.monotonic() + 5
    app.servers().broker.transport.publish([poison], deadline=deadline)
    with running(app):
        assert add.delay(2, 3).get(timeout=60) == 5
        ledger = app.servers().ledger
        assert ledger is not None
        with Probe() as probe:
            if not ledger.dead_letters():
                probe.wait_for("delivery.committed", timeout=60)
    (letter,) = ledger.dead_letters()
    assert letter.reason


def test_tasks_acknowledged_early_run_once_and_keep_their_results(app: Umbel) -> None:
    @app.task(acks_late=False)
    def early(number: int) -> int:
        return number

    with running(app):
        assert [early.delay(n).get(timeout=60) for n in range(10)] == list(range(10))
    assert app.servers().broker.transport.depth(["celery"])["celery"].held == 0


def test_nothing_is_lost_over_a_connection_that_fails_all_the_time(app: Umbel) -> None:
    runs: list[int] = []

    @app.task
    def work(number: int) -> int:
        runs.append(number)
        return number * 2

    plan = chance(
        11,
        {
            "receive": {BEFORE: 0.1, AFTER: 0.25, DROP: 0.1},
            "commit": {BEFORE: 0.2, AFTER: 0.3, DELAY: 0.1},
            "give_back": {BEFORE: 0.1, AFTER: 0.1},
        },
    )
    servers = app.servers()
    flaky = FlakyServer(servers.broker, plan)
    broken = dataclasses.replace(servers, broker=cast("Any", flaky), committer=flaky.committer)
    results = [work.delay(n) for n in range(3000)]
    with running(app, servers=broken):
        assert [r.get(timeout=60) for r in results] == [2 * n for n in range(3000)]
    assert sum(flaky.faults.counts.values()) >= 10
    depth = servers.broker.transport.depth(["celery"])["celery"]
    assert (depth.ready, depth.held, depth.delayed) == (0, 0, 0)


def test_soft_limits_in_threads_leave_the_interpreter_as_it_was(app: Umbel) -> None:
    @app.task(soft_time_limit=5)
    def quick() -> int:
        return 1

    with running(app):
        assert quick.delay().get(timeout=60) == 1
    # CPython's eval breaker, once stuck, makes a profiled call loop for ever.
    assert len(python_calls(lambda: len("umbel"))) == 1


def test_what_a_retry_changes_may_stand_in_retry_kwargs(app: Umbel) -> None:
    options = {"max_retries": 1, "countdown": 0, "queue": "second", "priority": 7}

    @app.task(bind=True, autoretry_for=(ValueError,), retry_kwargs=options)
    def moved(self: Any) -> Any:
        if self.request.retries == 0:
            raise ValueError
        return self.request.delivery_info

    with running(app, queues=("celery", "second")):
        info = moved.delay().get(timeout=60)
    assert (info["routing_key"], info["priority"]) == ("second", 7)


def test_a_retry_that_cannot_be_is_the_failure_of_its_task(app: Umbel) -> None:
    app.conf.task_queues = [Queue("celery")]
    app.conf.task_create_missing_queues = False

    @app.task
    def never() -> None:
        raise Retry(when="soon")

    @app.task(autoretry_for=(ValueError,), retry_kwargs={"queue": "unheard"})
    def lost() -> None:
        raise ValueError

    @app.task(bind=True)
    def wrong(self: Any) -> None:
        self.retry(countdown="soon")

    with running(app):
        for task, words in ((never, "soon"), (lost, "unheard"), (wrong, "countdown")):
            with pytest.raises((TypeError, ValueError, QueueNotFound), match=words):
                task.delay().get(timeout=60)
