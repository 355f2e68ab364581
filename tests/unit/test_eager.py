"""Tasks run where they are called."""

# ruff: noqa: ARG001, ARG002 -- tasks of tests need not use what they take

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from pydantic import BaseModel

from tests.unit import sent
from umbel import EagerResult, GroupResult, Task, Umbel, chain, chord, group, signals, states
from umbel.exceptions import (
    ChordError,
    EncodeError,
    Ignore,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    Reject,
    TaskError,
)


class Size(BaseModel):
    cm: int


@pytest.fixture
def add(app: Umbel) -> Task[..., int]:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def test_apply(add: Task[..., int], app: Umbel) -> None:
    result = add.apply((1,), {"y": 2})
    assert isinstance(result, EagerResult)
    assert (result.get(), result.state, result.name) == (3, states.SUCCESS, "add")
    assert sent.messages(app) == []


def test_a_failure_is_in_the_result(app: Umbel) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("no")

    result = fail.apply()
    assert result.failed()
    assert "raise ValueError" in (result.traceback or "")
    with pytest.raises(ValueError, match="no"):
        result.get()
    with pytest.raises(ValueError, match="no"):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="no"):
        fail.apply()


def test_a_task_cannot_end_who_waits_for_it(app: Umbel) -> None:
    @app.task
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(TaskError, match=r"raised SystemExit\(3\)"):
        leave.apply().get()


def test_the_request(app: Umbel) -> None:
    @app.task(bind=True, name="look")
    def look(self: Task[..., Any], x: int) -> dict[str, Any]:
        names = "id task args is_eager called_directly retries root_id parent_id headers group"
        return {name: getattr(self.request, name) for name in names.split()}

    assert look.apply((1,), task_id="i", headers={"a": 1}, group_id="g").get() == {
        "id": "i",
        "task": "look",
        "args": [1],
        "is_eager": True,
        "called_directly": False,
        "retries": 0,
        "root_id": "i",
        "parent_id": None,
        "headers": {"a": 1},
        "group": "g",
    }


def test_children(app: Umbel) -> None:
    @app.task(bind=True, name="child")
    def child(self: Task[..., Any]) -> tuple[Any, Any]:
        return self.request.parent_id, self.request.root_id

    @app.task
    def parent() -> tuple[Any, Any]:
        return child.apply().get()

    result = parent.apply(task_id="p")
    assert result.get() == ("p", "p")
    assert len(result.children or []) == 1


def test_retries_run_at_once(app: Umbel) -> None:
    tries: list[int] = []

    @app.task(bind=True, max_retries=3)
    def job(self: Task[..., Any], x: int) -> int:
        tries.append(self.request.retries)
        if len(tries) < 3:
            raise self.retry(countdown=60, args=(x + 1,))
        return x

    assert job.apply((0,)).get() == 2
    assert tries == [0, 1, 2]


def test_retries_end(app: Umbel) -> None:
    @app.task(bind=True, max_retries=2)
    def job(self: Task[..., Any]) -> None:
        self.retry()

    @app.task(autoretry_for=(KeyError,), max_retries=2, default_retry_delay=60)
    def by_itself() -> None:
        raise KeyError("x")

    with pytest.raises(MaxRetriesExceededError):
        job.apply().get()
    with pytest.raises(KeyError):
        by_itself.apply().get()


class Telling(Task[..., Any]):
    """Tells which hooks were called."""

    told: list[str]

    def before_start(self, *args: Any) -> None:
        self.told.append("before_start")

    def on_success(self, *args: Any) -> None:
        self.told.append("on_success")

    def on_failure(self, *args: Any) -> None:
        self.told.append("on_failure")

    def on_retry(self, *args: Any) -> None:
        self.told.append("on_retry")

    def after_return(self, *args: Any) -> None:
        self.told.append(f"after_return {args[0]}")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("succeed", ["before_start", "on_success", "after_return SUCCESS"]),
        ("fail", ["before_start", "on_failure", "after_return FAILURE"]),
        (
            "retry",
            [
                *("before_start", "on_retry"),
                *("before_start", "on_success", "after_return SUCCESS"),
            ],
        ),
        ("ignore", ["before_start"]),
        ("reject", ["before_start"]),
    ],
)
def test_hooks(app: Umbel, how: str, told: list[str]) -> None:
    Telling.told = []
    raised = {"fail": ValueError(), "ignore": Ignore(), "reject": Reject()}

    @app.task(bind=True, base=Telling)
    def job(self: Task[..., Any], how: str) -> None:
        if how == "retry" and self.request.retries == 0:
            self.retry(countdown=0)
        if how in raised:
            raise raised[how]

    job.apply((how,))
    assert Telling.told == told


def test_signals(add: Task[..., int]) -> None:
    told: list[Any] = []

    def prerun(sender: Any, task_id: str, **_: Any) -> None:
        told.append((sender, task_id))

    def success(result: Any, **_: Any) -> None:
        told.append(result)

    signals.task_prerun.connect(prerun, sender=add)
    signals.task_success.connect(success, sender=add)
    try:
        add.apply((1,), task_id="i")
    finally:
        signals.task_prerun.disconnect(prerun, sender=add)
        signals.task_success.disconnect(success, sender=add)
    assert told == [(add, "i"), 1]


def test_links_run_too(app: Umbel) -> None:
    ran: list[Any] = []

    @app.task(name="note")
    def note(value: Any) -> None:
        ran.append(value)

    @app.task(name="half")
    def half(x: int) -> float:
        return 1 / x

    half.apply((2,), link=note.s(), link_error=note.s())
    result = half.apply((0,), link=note.s(), link_error=note.s())
    assert ran == [0.5, result.id]


def test_verdicts(app: Umbel) -> None:
    @app.task
    def ignore() -> None:
        raise Ignore

    @app.task
    def reject() -> None:
        raise Reject("no", requeue=False)

    assert ignore.apply().state == states.IGNORED
    assert reject.apply().state == states.REJECTED


def test_coroutine_tasks(app: Umbel) -> None:
    @app.task(bind=True)
    async def look(self: Task[..., Any], x: int) -> tuple[int, Any]:
        await asyncio.sleep(0)
        return x, self.request.id

    assert look.apply((1,), task_id="i").get() == (1, "i")

    async def inside_of_a_loop() -> Any:
        return look.apply((2,), task_id="j").get()

    assert asyncio.run(inside_of_a_loop()) == (2, "j")


def test_groups_and_chains(add: Task[..., int]) -> None:
    assert group([add.s(1), add.s(2)]).apply((10,)).get() == [11, 12]
    result = chain(add.s(1, 2), add.s(3), add.s(4)).apply()
    assert result.get() == 10
    assert result.parent.get() == 6


# --- task_always_eager


def test_every_call_runs_at_once(add: Task[..., int], app: Umbel) -> None:
    app.conf.update(task_always_eager=True, broker_url="carrier-pigeon://")  # is not even opened
    assert add.delay(1, y=2).get() == 3
    assert add.apply_async((1,), queue="q", countdown=60).get() == 1
    assert add.s(1).delay(1).get() == 2
    assert app.send_task("add", (1,)).get() == 1
    assert asyncio.run(get(add)) == 2
    members = group([add.s(1), add.s(2)]).apply_async()
    assert isinstance(members, GroupResult)
    assert [each.get() for each in members.results] == [1, 2]
    assert (add.s(1) | add.s(2)).delay().get() == 3
    with pytest.raises(TypeError, match=r"add\(\)"):
        add.delay()


async def get(add: Task[..., int]) -> int:
    return await (await add.adelay(1, 1)).aget()


def test_arguments_are_as_if_they_had_been_sent(app: Umbel) -> None:
    app.conf.task_always_eager = True

    @app.task
    def look(value: Any) -> Any:
        return value

    day = dt.date(2030, 1, 2)
    assert look.delay((1, {2: day})).get() == [1, {"2": day}]
    with pytest.raises(EncodeError):
        look.delay(object())
    app.conf.task_eager_serializes = False
    assert look.delay((1, 2)).get() == (1, 2)


def test_retries_and_what_follows_are_as_if_they_had_been_sent(app: Umbel) -> None:
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task(bind=True, name="again")
    def again(self: Task[..., Any], value: Any) -> Any:
        seen.append(value)
        if self.request.retries == 0:
            raise self.retry(args=((3, 4),))
        return (5, 6)

    @app.task(name="look")
    def look(value: Any, more: Any) -> None:
        seen.append((value, more))

    result = again.apply_async(((1, 2),), link=look.s((7, 8)))
    assert result.get() == [5, 6]
    assert seen == [[1, 2], [3, 4], ([5, 6], [7, 8])]


def test_a_result_that_could_not_be_stored_is_a_failure(app: Umbel) -> None:
    app.conf.task_always_eager = True

    @app.task(name="bad")
    def bad() -> Any:
        return object()

    with pytest.raises(EncodeError, match="the task's result cannot be stored"):
        bad.delay().get()
    assert bad.apply_async(ignore_result=True).successful()
    app.conf.task_eager_propagates = True
    with pytest.raises(EncodeError):
        bad.delay()
    app.conf.task_always_eager = False
    assert bad.apply().successful()


def test_models_travel_as_dicts(app: Umbel) -> None:
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task(name="grow", pydantic=True)
    def grow(by: Size, *, other: Size) -> Size:
        seen.append((by, other))
        return Size(cm=by.cm + other.cm)

    result: Any = grow.delay(Size(cm=1), other=Size(cm=2))
    assert result.get() == {"cm": 3}
    assert seen == [(Size(cm=1), Size(cm=2))]


def test_results_are_stored_if_asked(add: Task[..., int], app: Umbel) -> None:
    app.conf.task_store_eager_result = True
    result = add.apply((1, 2))
    assert app.AsyncResult(result.id).get(timeout=60) == 3


def test_stored_results_are_as_the_settings_say(app: Umbel) -> None:
    @app.task(bind=True, name="twice")
    def twice(self: Task[..., Any], x: int) -> int:
        self.update_state(task_id="other", state="PROGRESS", meta=x)
        return 2 * x

    app.conf.update(
        task_store_eager_result=True, result_serializer="msgpack", result_compression="zlib"
    )
    result = twice.apply((3,))
    assert app.AsyncResult(result.id).get(timeout=60) == 6
    assert app.AsyncResult("other").info == 3
    stored = app.servers().results.get([result.id, "other"])
    assert all(meta.startswith(b"\x00celery-compressed\x00") for meta in stored.values())
    app.conf.result_compression = "tar"
    with pytest.raises(ImproperlyConfigured, match="compression"):
        twice.bound_task()


def test_both_forms_of_errbacks_are_called(app: Umbel) -> None:
    told: list[Any] = []

    @app.task
    def fail() -> None:
        raise KeyError("why")

    @app.task
    def called(request: Any, error: BaseException, traceback: str) -> None:
        told.append((request.id, error.args, "KeyError" in traceback))

    @app.task(bind=True)
    def sent(self: Any, task_id: str) -> None:
        told.append((task_id, self.name))

    @app.task
    def annotated(task_id: str, note: str) -> None:
        told.append((task_id, note))

    fail.apply(task_id="f", link_error=[called.s(), sent.s(), annotated.s("n")])
    assert told == [("f", ("why",), True), ("f", sent.name), ("f", "n")]


def test_errbacks_of_what_will_not_run(app: Umbel) -> None:
    told: list[Any] = []

    @app.task
    def fail() -> None:
        raise KeyError("why")

    @app.task
    def never(_: Any) -> None: ...

    @app.task
    def called(request: Any, error: BaseException, traceback: str) -> None:
        told.append((request.id, type(error)))

    @app.task
    def sent(task_id: str) -> None:
        told.append(task_id)

    # A chord's body is told of; of a chain only the link that failed
    result = chord([fail.si()], never.s().set(link_error=[called.s(), sent.s()])).apply()
    assert told == [(result.id, ChordError), result.id]
    told.clear()
    result = chain(fail.si(), never.s()).on_error(sent.s()).apply()
    assert told == [result.parent.id]
