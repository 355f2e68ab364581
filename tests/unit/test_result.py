"""Results as callers see them: under Celery's names, from any store, for threads and coroutines."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import pickle
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from tests.results import DONE_AT, meta, put
from umbel import Umbel, context
from umbel.exceptions import (
    ImproperlyConfigured,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,
)
from umbel.ids import new_id
from umbel.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    RemoteTraceback,
    ResultBase,
    ResultSet,
    StateChange,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    result_from_tuple,
)
from umbel.servers.seams import ResultStore
from umbel.states import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS
from umbel.testing.contract.stage import PATIENCE, eventually, in_thread
from umbel.wire.request import Request

TRACE = (
    'Traceback (most recent call last):\n  File "tasks.py", line 3, in divide\nZeroDivisionError'
)


@pytest.fixture
def app() -> Iterator[Umbel]:
    with Umbel("results", broker=f"memory://{new_id()}", set_as_current=False) as app:
        yield app


@pytest.fixture
def store(app: Umbel) -> ResultStore:
    return app.servers().results


def result(app: Umbel, **options: Any) -> AsyncResult[Any]:
    return AsyncResult(new_id(), app=app, **options)


def fail(
    store: ResultStore, task_id: str, error: BaseException, state: str = FAILURE, **fields: Any
) -> None:
    put(store, task_id, state=state, value=error, traceback=TRACE, **fields)


# --- get


def test_get_returns_the_value(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, value={"a": [1, None]})
    assert one.get(timeout=PATIENCE) == {"a": [1, None]}
    assert one.wait(PATIENCE) == {"a": [1, None]}


def test_get_waits(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    waiting = in_thread(one.get, timeout=PATIENCE)
    put(store, one.id, state=STARTED)
    put(store, one.id, value=5)
    assert waiting() == 5


def test_get_ends_at_its_timeout(app: Umbel) -> None:
    one = result(app)
    with pytest.raises(TimeoutError, match=one.id):
        one.get(timeout=0.01)
    assert AsyncResult.TimeoutError is TimeoutError


def test_get_raises_the_tasks_exception_with_the_workers_traceback_as_its_cause(
    app: Umbel, store: ResultStore
) -> None:
    one = result(app)
    fail(store, one.id, ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        one.get(timeout=PATIENCE)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.index(TRACE) < shown.index("direct cause") < shown.index("one.get(")
    assert shown.endswith("ZeroDivisionError: division by zero\n")


def test_each_raise_is_a_new_exception_so_that_no_frames_are_kept(
    app: Umbel, store: ResultStore
) -> None:
    one = result(app)
    fail(store, one.id, KeyError("a"))
    caught = []
    for _ in range(2):
        with pytest.raises(KeyError) as each:
            one.get(timeout=PATIENCE)
        caught.append(each.value)
    assert caught[0] is not caught[1]
    assert one.result.__traceback__ is None


def test_get_returns_the_exception_if_told_to(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    fail(store, one.id, KeyError("a"))
    value = one.get(timeout=PATIENCE, propagate=False)
    assert isinstance(value, KeyError)
    assert value.args == ("a",)


def test_get_of_a_revoked_task_raises(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    fail(store, one.id, TaskRevokedError("terminated"), REVOKED)
    with pytest.raises(TaskRevokedError, match="terminated"):
        one.get(timeout=PATIENCE)


def test_get_calls_back(app: Umbel, store: ResultStore) -> None:
    one, called = result(app), list[Any]()
    put(store, one.id, value=3)
    one.get(timeout=PATIENCE, callback=lambda *given: called.append(given))
    assert called == [(one.id, 3)]


def test_get_tells_of_every_message(app: Umbel, store: ResultStore) -> None:
    one, seen = result(app), list[dict[str, Any]]()
    put(store, one.id, state="PROGRESS", value={"done": 1})
    waiting = in_thread(one.get, timeout=PATIENCE, on_message=seen.append)
    eventually(lambda: len(seen) == 1, "told of progress")
    put(store, one.id, value=2)
    assert waiting() == 2
    assert [(each["status"], each["result"]) for each in seen] == [
        ("PROGRESS", {"done": 1}),
        (SUCCESS, 2),
    ]


def test_get_of_an_ignored_result_returns_none_at_once(app: Umbel) -> None:
    one = result(app)
    one.ignored = True
    assert one.get() is None
    assert asyncio.run(one.aget()) is None


def test_a_final_result_is_asked_for_once(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, value=7)
    assert one.state == SUCCESS
    store.forget([one.id])
    assert (one.get(timeout=0), one.result, one.ready()) == (7, 7, True)


def test_get_raises_what_an_earlier_task_of_the_chain_raised(
    app: Umbel, store: ResultStore
) -> None:
    first = result(app)
    second = result(app, parent=first)
    last = result(app, parent=second)
    put(store, first.id)
    waiting = in_thread(last.get, timeout=PATIENCE)
    eventually(lambda: first.id not in app.bridge._waiting, "the first one is known")
    fail(store, second.id, LookupError("second"))
    with pytest.raises(LookupError, match="second"):
        waiting()
    with pytest.raises(LookupError, match="second"):
        asyncio.run(last.aget(timeout=PATIENCE))
    put(store, last.id, value=9)
    assert last.get(timeout=PATIENCE, follow_parents=False) == 9
    assert last.get(timeout=PATIENCE) == 9


def test_get_waits_only_for_the_last_of_a_chain(app: Umbel, store: ResultStore) -> None:
    last = result(app, parent=result(app, parent=GroupResult(new_id(), [result(app)], app=app)))
    put(store, last.id, value=9)
    assert last.get(timeout=PATIENCE) == 9


# --- what is known


def test_of_an_unknown_task_nothing_is_known(app: Umbel) -> None:
    one = result(app)
    assert (one.state, one.status, one.result, one.info) == (PENDING, PENDING, None, None)
    assert (one.ready(), one.successful(), one.failed(), one.exists()) == (False,) * 4
    assert (one.traceback, one.children, one.date_done, one.name) == (None,) * 4


def test_what_is_known_of_a_success(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, children=[])
    assert (one.state, one.info, one.traceback, one.children) == (SUCCESS, 1, None, [])
    assert (one.ready(), one.successful(), one.failed(), one.exists()) == (True, True, False, True)
    assert one.date_done == dt.datetime.fromtimestamp(DONE_AT, dt.UTC)


def test_what_is_known_of_a_failure(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    fail(store, one.id, ValueError("bad", 42))
    assert (one.state, one.traceback) == (FAILURE, TRACE)
    assert (one.ready(), one.successful(), one.failed()) == (True, False, True)
    assert one.result.args == ("bad", 42)
    with pytest.raises(ValueError, match="bad"):
        one.maybe_throw()
    assert one.maybe_throw(propagate=False).args == ("bad", 42)
    assert one.maybe_reraise(propagate=False).args == ("bad", 42)


def test_a_retry_is_not_final_and_its_result_is_the_exception(
    app: Umbel, store: ResultStore
) -> None:
    one = result(app)
    fail(store, one.id, ValueError("again"), RETRY)
    assert (one.state, one.ready()) == (RETRY, False)
    assert str(one.result) == "again"
    put(store, one.id)
    assert one.state == SUCCESS


def test_progress_is_seen(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, state="PROGRESS", value={"done": 3})
    assert (one.state, one.info, one.ready()) == ("PROGRESS", {"done": 3}, False)


def test_extended_results(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    request = Request(
        id=one.id,
        task="tasks.add",
        args=[1],
        kwargs={"y": 2},
        retries=3,
        delivery_info={"routing_key": "fast"},
    )
    put(store, one.id, request=request, extended=True, worker="umbel@here")
    assert (one.name, one.args, one.kwargs) == ("tasks.add", [1], {"y": 2})
    assert (one.worker, one.retries, one.queue) == ("umbel@here", 3, "fast")
    assert result(app, task_name="tasks.sub").name == "tasks.sub"


def test_the_store_is_reachable(app: Umbel, store: ResultStore) -> None:
    assert result(app).backend is store
    assert result(app).app is app


# --- forget, revoke


def test_forget_deletes_it_and_its_parents(app: Umbel, store: ResultStore) -> None:
    member, first = result(app), result(app)
    group = GroupResult(new_id(), [member], app=app, parent=first)
    last = result(app, parent=group)
    put(store, *(each.id for each in (member, first, last)))
    assert last.get(timeout=PATIENCE) == 1
    last.forget()
    assert [each.state for each in (member, first, last)] == [PENDING] * 3


def test_revoke_goes_into_the_ledger(app: Umbel) -> None:
    one, two = result(app), result(app)
    one.revoke()
    ResultSet([two], app=app).revoke()
    ledger = app.servers().ledger
    assert ledger is not None
    assert set(ledger.revoked([one.id, two.id, "other"])) == {one.id, two.id}


def test_revoke_may_end_what_runs(app: Umbel) -> None:
    one, two, three = result(app), result(app), result(app)
    one.revoke(terminate=True)
    GroupResult("g", [two], app=app).revoke(terminate=True, signal="kill")
    app.control.terminate([three.id], 15)
    ledger = app.servers().ledger
    assert ledger is not None
    told = ledger.revoked([one.id, two.id, three.id])
    assert [each.signal for each in told.values()] == ["SIGTERM", "SIGKILL", "SIGTERM"]
    with pytest.raises(ValueError, match="expected a signal such as TERM, got 'SIGNOPE'"):
        app.control.revoke(one.id, terminate=True, signal="SIGNOPE")


def test_a_revocation_ends(app: Umbel) -> None:
    one = result(app)
    app.control.revoke(one.id, expires=0.0)
    ledger = app.servers().ledger
    assert ledger is not None
    assert ledger.revoked([one.id]) == {}


# --- follow


def test_follow_yields_states_as_they_come(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, state=STARTED, value={"pid": 1})
    changes = []
    for change in one.follow(timeout=PATIENCE):
        changes.append(change)
        if len(changes) < 3:
            put(store, one.id, state="PROGRESS", value=len(changes))
        else:
            put(store, one.id, value="done")
    assert changes == [
        StateChange(one.id, STARTED, {"pid": 1}),
        StateChange(one.id, "PROGRESS", 1),
        StateChange(one.id, "PROGRESS", 2),
        StateChange(one.id, SUCCESS, "done"),
    ]
    assert [each.ready for each in changes] == [False, False, False, True]
    assert one.get(timeout=PATIENCE) == "done"
    assert list(one.follow()) == [changes[-1]]


def test_follow_can_be_left_early_and_leaves_nothing(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, state=STARTED)
    for change in one.follow(timeout=PATIENCE):
        assert change.state == STARTED
        break
    assert not app.bridge._waiting


def test_follow_ends_at_its_timeout(app: Umbel) -> None:
    with pytest.raises(TimeoutError):
        list(result(app).follow(timeout=0.01))


def test_follow_in_a_coroutine(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id, state=STARTED)

    async def main() -> list[str]:
        seen = []
        async for change in one.follow(timeout=PATIENCE):
            seen.append(change.state)
            put(store, one.id)
        return seen

    assert asyncio.run(main()) == [STARTED, SUCCESS]


# --- then


def test_then_calls_back_in_the_background(app: Umbel, store: ResultStore) -> None:
    one, called = result(app), threading.Event()
    values: list[Any] = []

    def callback(ready: AsyncResult[Any]) -> None:
        values.append((ready, ready.result))
        called.set()

    one.then(callback)
    assert not values
    put(store, one.id, value=4)
    assert called.wait(PATIENCE)
    assert values == [(one, 4)]
    one.then(lambda ready: values.append(ready.state))
    assert values[1:] == [SUCCESS]


def test_then_tells_of_errors(app: Umbel) -> None:
    errors: list[BaseException] = []
    result(app).then(print, errors.append)
    app.bridge.close()
    eventually(lambda: len(errors) == 1, "told of the end")


# --- coroutines


def test_await(app: Umbel, store: ResultStore) -> None:
    one, bad = result(app), result(app)
    put(store, one.id, value=2)
    fail(store, bad.id, KeyError("a"))

    async def main() -> Any:
        with pytest.raises(KeyError):
            await bad
        with pytest.raises(TimeoutError):
            await result(app).aget(timeout=0.01)
        return await one, await one.aget(), await one.aget(callback=print)

    assert asyncio.run(main()) == (2, 2, 2)


def test_aget_tells_of_every_message(app: Umbel, store: ResultStore) -> None:
    one, seen = result(app), list[str]()
    put(store, one.id)
    asyncio.run(one.aget(on_message=lambda told: seen.append(told["status"])))
    assert seen == [SUCCESS]


# --- what it sent


def test_children_are_results(app: Umbel, store: ResultStore) -> None:
    one, child, member = result(app), new_id(), new_id()
    put(store, one.id, children=[[[child, None], None], [["g", None], [[[member, None], None]]]])
    put(store, child, member)
    children = one.children or []
    assert children == [AsyncResult(child), GroupResult("g", [AsyncResult(member)])]
    assert children[1].get(timeout=PATIENCE) == [1]


def family(app: Umbel, store: ResultStore) -> AsyncResult[Any]:
    """One task that sent two; the second of them sent one more; retried, it lists itself."""
    top = result(app)
    put(store, top.id, value="top", children=[[["a", None], None], [["b", None], None]])
    put(store, "a", value="a")
    put(store, "b", value="b", children=[[["b", None], None], [["c", None], None]])
    put(store, "c", value="c")
    return top


def test_iterdeps_collect_and_get_leaf(app: Umbel, store: ResultStore) -> None:
    top = family(app, store)
    pairs = [(parent and parent.id, each.id) for parent, each in top.iterdeps()]  # type: ignore[attr-defined]
    assert pairs == [(None, top.id), (top.id, "a"), (top.id, "b"), ("b", "c")]
    assert [value for _, value in top.collect()] == ["top", "a", "b", "c"]
    assert top.get_leaf() == "c"


def test_iterdeps_says_when_it_cannot_go_on(app: Umbel, store: ResultStore) -> None:
    top = family(app, store)
    store.forget(["b"])
    with pytest.raises(IncompleteStream):
        list(top.iterdeps())
    assert [each.id for _, each in top.iterdeps(intermediate=True)] == [top.id, "a", "b"]


# --- as data


def test_ids_and_equality(app: Umbel) -> None:
    one = result(app)
    again: AsyncResult[Any] = AsyncResult(one.id)
    assert one == again == one.id
    assert one != result(app)
    assert one != 3
    assert {one, again} == {one}
    assert (str(one), repr(one), one.task_id) == (one.id, f"<AsyncResult: {one.id}>", one.id)
    assert isinstance(one, ResultBase)


@pytest.mark.parametrize("wrong", ["", None])
def test_an_id_is_needed(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected the id"):
        AsyncResult(wrong)


def test_without_an_application_the_current_one_serves(app: Umbel, store: ResultStore) -> None:
    one: AsyncResult[int] = AsyncResult(new_id())
    put(store, one.id)
    before = context.current_app_or_none()
    try:
        context.set_current_app(None)
        with pytest.raises(ImproperlyConfigured):
            one.get(timeout=0)
        context.set_current_app(app)
        assert one.get(timeout=PATIENCE) == 1
    finally:
        context.set_current_app(before)


def test_tuples_and_back(app: Umbel) -> None:
    first = AsyncResult[int]("a", app=app)
    members = [AsyncResult[int]("m"), AsyncResult[int]("n")]
    group = GroupResult("g", members, app=app, parent=first)
    last = AsyncResult[int]("z", app=app, parent=group)
    expected = [
        ["z", [["g", [["a", None], None]], [[["m", None], None], [["n", None], None]]]],
        None,
    ]
    assert last.as_tuple() == expected
    assert last.as_list() == ["z", "g", "a"]
    again = result_from_tuple(expected, app=app)
    assert (again, again.parent, again.parent.parent) == (last, group, first)
    assert again.parent.results[1].app is app
    assert result_from_tuple(again) is again
    assert result_from_tuple(["old", None]) == AsyncResult("old")


def test_long_chains_are_no_problem(app: Umbel, store: ResultStore) -> None:
    last = None
    for number in range(5000):
        last = AsyncResult[int](str(number), app=app, parent=last)
    assert last is not None
    again = result_from_tuple(last.as_tuple(), app=app)
    assert len(again.as_list()) == 5000
    put(store, last.id, value=9)
    assert again.get(timeout=PATIENCE) == 9
    again.forget()


def test_pickle_and_copy(app: Umbel) -> None:
    one = result(app, parent=result(app))
    for each in (pickle.loads(pickle.dumps(one)), copy.copy(one)):
        assert each == one
        assert each.parent == one.parent
    group: GroupResult[Any] = GroupResult("g", [one], app=app)
    assert pickle.loads(pickle.dumps(group)) == group


# --- eager results


def test_an_eager_result_is_known() -> None:
    one: EagerResult[int] = EagerResult("a", 3, SUCCESS, name="tasks.add")
    assert (one.get(), one.state, one.result, one.ready(), one.name) == (
        3,
        SUCCESS,
        3,
        True,
        "tasks.add",
    )
    assert asyncio.run(one.aget()) == 3
    one.forget()
    assert one.get() == 3
    one.revoke()
    assert one.state == REVOKED
    assert [each.state for each in EagerResult("b", 1, SUCCESS).follow()] == [SUCCESS]


def test_an_eager_failure_is_the_very_exception() -> None:
    with pytest.raises(KeyError) as raised:
        raise KeyError("a")
    error: Any = raised.value
    one: EagerResult[Any] = EagerResult("a", error, FAILURE, TRACE)
    assert one.get(propagate=False) is error
    assert one.traceback == TRACE
    with pytest.raises(KeyError) as again:
        one.get()
    assert again.value is error
    assert error.__cause__ is None


def test_an_eager_result_travels() -> None:
    one: EagerResult[int] = EagerResult("a", 3, SUCCESS, name="tasks.add")
    again = pickle.loads(pickle.dumps(one))
    assert (type(again), again.get(), again.name) == (EagerResult, 3, "tasks.add")


# --- waiting in tasks


def in_task(**fields: Any) -> Any:
    request = Request(id="running", task="tasks.add", called_directly=False, **fields)
    return context.current_request.set(request)


def test_a_task_must_not_wait_for_another(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id)
    group = GroupResult(new_id(), [result(app)], app=app)
    token = in_task()
    try:
        for wait in (one.get, group.get, group.join, group.as_completed):
            with pytest.raises(RuntimeError, match="allow_join_result"):
                wait()
        with pytest.raises(RuntimeError, match="allow_join_result"):
            asyncio.run(one.aget())
        with allow_join_result():
            assert_will_not_block()
            with denied_join_result(), pytest.raises(RuntimeError):
                assert_will_not_block()
            assert one.get(timeout=PATIENCE) == 1
        assert one.get() == 1  # it is here: no wait
        assert result(app).state == PENDING
        with pytest.raises(TimeoutError):
            result(app).get(timeout=0, disable_sync_subtasks=False)
    finally:
        context.current_request.reset(token)
    assert_will_not_block()


def test_a_task_that_runs_where_it_was_called_may_wait(app: Umbel, store: ResultStore) -> None:
    one = result(app)
    put(store, one.id)
    token = in_task(is_eager=True)
    try:
        assert one.get(timeout=PATIENCE) == 1
    finally:
        context.current_request.reset(token)
    assert meta("x")
