"""Sets and groups of results: one wait for all of them, in linear time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.results import put
from umbel import Umbel
from umbel.exceptions import TimeoutError
from umbel.ids import new_id
from umbel.result import AsyncResult, GroupResult, ResultSet
from umbel.servers.seams import ResultStore
from umbel.states import FAILURE, PENDING, STARTED
from umbel.testing.contract.stage import PATIENCE, eventually, in_thread


@pytest.fixture
def app() -> Iterator[Umbel]:
    with Umbel("results", broker=f"memory://{new_id()}", set_as_current=False) as app:
        yield app


@pytest.fixture
def store(app: Umbel) -> ResultStore:
    return app.servers().results


@pytest.fixture
def group(app: Umbel) -> GroupResult[str]:
    members = [AsyncResult[str](f"m{number}", app=app) for number in range(4)]
    return GroupResult(new_id(), members, app=app)


def finish(store: ResultStore, *results: AsyncResult[Any]) -> None:
    """Let each return its id."""
    for each in results:
        put(store, each.id, value=each.id)


def fail(store: ResultStore, result: AsyncResult[Any]) -> None:
    put(store, result.id, state=FAILURE, value=LookupError(result.id))


def entered(app: Umbel, count: int) -> None:
    eventually(lambda: len(app.bridge._waiting) == count, f"{count} tasks waited for")


# --- waiting


def test_get_returns_the_values_in_order(store: ResultStore, group: GroupResult[str]) -> None:
    waiting = in_thread(group.get, timeout=PATIENCE)
    finish(store, *reversed(group.results))
    assert waiting() == ["m0", "m1", "m2", "m3"]
    assert group.get(timeout=0) == group.join_native() == group.join() == waiting()


def test_get_of_nothing_is_nothing(app: Umbel) -> None:
    empty: ResultSet[int] = ResultSet(app=app)
    assert empty.get() == empty.join() == asyncio.run(empty.aget()) == []
    assert (empty.ready(), empty.successful(), empty.failed()) == (True, True, False)


def test_get_raises_the_first_failure_at_once(
    app: Umbel, store: ResultStore, group: GroupResult[str]
) -> None:
    waiting = in_thread(group.get, timeout=PATIENCE)
    entered(app, 4)
    fail(store, group[2])
    with pytest.raises(LookupError, match="m2"):
        waiting()
    with pytest.raises(LookupError, match="m2"):
        group.get(timeout=PATIENCE)


def test_join_raises_in_the_order_of_the_results(
    app: Umbel, store: ResultStore, group: GroupResult[str]
) -> None:
    called: list[tuple[str, str]] = []
    waiting = in_thread(group.join, timeout=PATIENCE, callback=lambda *given: called.append(given))
    entered(app, 4)
    fail(store, group[2])
    finish(store, group[1])
    finish(store, group[0])
    with pytest.raises(LookupError, match="m2"):
        waiting()
    assert called == [("m0", "m0"), ("m1", "m1")]


def test_without_propagation_exceptions_are_values(
    store: ResultStore, group: GroupResult[Any]
) -> None:
    finish(store, group[0], group[1], group[3])
    fail(store, group[2])
    for values in (
        group.get(timeout=PATIENCE, propagate=False),
        group.join(timeout=PATIENCE, propagate=False),
        asyncio.run(group.aget(timeout=PATIENCE, propagate=False)),
    ):
        assert [str(each) for each in values] == ["m0", "m1", "m2", "m3"]
        assert isinstance(values[2], LookupError)


def test_get_calls_back_as_results_come(
    app: Umbel, store: ResultStore, group: GroupResult[str]
) -> None:
    finish(store, group[3])
    assert group[3].ready()
    called: list[tuple[str, str]] = []
    messages: list[str] = []
    waiting = in_thread(
        group.get,
        timeout=PATIENCE,
        callback=lambda *given: called.append(given),
        on_message=lambda meta: messages.append(meta["status"]),
    )
    entered(app, 3)
    put(store, "m0", state=STARTED)
    eventually(lambda: bool(messages), "told of STARTED")
    finish(store, group[1], group[2], group[0])
    waiting()
    assert called == [(each, each) for each in ("m3", "m1", "m2", "m0")]
    assert messages == [STARTED, "SUCCESS", "SUCCESS", "SUCCESS"]


def test_get_ends_at_its_timeout(store: ResultStore, group: GroupResult[str]) -> None:
    finish(store, group[0])
    for wait in (group.get, group.join):
        with pytest.raises(TimeoutError, match="m1 and 2 more"):
            wait(timeout=0.01)


def test_one_result_may_be_in_a_set_twice(app: Umbel, store: ResultStore) -> None:
    twice: ResultSet[Any] = ResultSet([AsyncResult("a", app=app)] * 2, app=app)
    twice.results.append(AsyncResult("a", app=app))
    put(store, "a", value=1)
    assert twice.get(timeout=PATIENCE) == [1, 1, 1]


def test_ignored_results_are_not_waited_for(store: ResultStore, group: GroupResult[str]) -> None:
    group[1].ignored = True
    finish(store, group[0], group[2], group[3])
    assert group.get(timeout=PATIENCE) == ["m0", None, "m2", "m3"]
    assert group.join(timeout=PATIENCE) == ["m0", None, "m2", "m3"]
    assert group.ready()


def test_groups_in_groups_give_lists_in_lists(app: Umbel, store: ResultStore) -> None:
    def leaf(task_id: str) -> Any:
        return AsyncResult[str](task_id, app=app)

    inner: Any = GroupResult("inner", [leaf("b"), leaf("c")], app=app)
    outer = GroupResult("outer", [leaf("a"), inner, leaf("d")], app=app)
    assert [each.id for each in outer.leaves()] == ["a", "b", "c", "d"]
    finish(store, *outer.leaves())
    assert outer.get(timeout=PATIENCE) == ["a", ["b", "c"], "d"]
    assert outer.successful()
    assert outer.completed_count() == 4


# --- as they complete


def test_as_completed_iterate_and_iter_native(
    app: Umbel, store: ResultStore, group: GroupResult[str]
) -> None:
    finish(store, group[2])
    seen: list[str] = []
    for each in group.as_completed(timeout=PATIENCE):
        seen.append(each.id)
        assert each.get(timeout=0) == each.id
        if len(seen) < 4:
            finish(store, group[(2, 0, 3, 1)[len(seen)]])
    assert seen == ["m2", "m0", "m3", "m1"]
    assert list(group.iterate(timeout=PATIENCE)) == ["m0", "m1", "m2", "m3"]
    native = [(task_id, meta["result"]) for task_id, meta in group.iter_native()]
    assert native == [(each, each) for each in ("m0", "m1", "m2", "m3")]
    assert not app.bridge._waiting


def test_async_for_gives_results_as_they_complete(
    store: ResultStore, group: GroupResult[str]
) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        finish(store, group[1])
        async for each in group:
            seen.append(await each)
            if len(seen) < 4:
                finish(store, group[(1, 3, 0, 2)[len(seen)]])
        return seen

    assert asyncio.run(main()) == ["m1", "m3", "m0", "m2"]
    assert asyncio.run(main()) == ["m0", "m1", "m2", "m3"]


def test_as_completed_ends_at_its_timeout(group: GroupResult[str]) -> None:
    with pytest.raises(TimeoutError):
        list(group.as_completed(timeout=0.01))


def test_await_gives_the_values(store: ResultStore, group: GroupResult[str]) -> None:
    async def main() -> list[str]:
        finish(store, *group.results)
        return await group

    assert asyncio.run(main()) == ["m0", "m1", "m2", "m3"]


def test_then_calls_back_when_all_are_ready(store: ResultStore, group: GroupResult[str]) -> None:
    called = threading.Event()
    counts: list[int] = []

    def callback(ready: GroupResult[str]) -> None:
        counts.append(ready.completed_count())
        called.set()

    group.then(callback)
    finish(store, *group.results)
    assert called.wait(PATIENCE)
    group.then(callback)
    assert counts == [4, 4]


# --- what is known


def test_what_is_known_of_a_group(store: ResultStore, group: GroupResult[str]) -> None:
    assert (group.ready(), group.waiting(), group.successful()) == (False, True, False)
    finish(store, group[0], group[1])
    put(store, "m2", state=STARTED)
    assert (group.ready(), group.failed(), group.completed_count()) == (False, False, 2)
    group.maybe_throw()
    fail(store, group[2])
    assert (group.ready(), group.failed(), group.successful()) == (False, True, False)
    finish(store, group[3])
    assert (group.ready(), group.waiting(), group.completed_count()) == (True, False, 3)
    for throw in (group.maybe_throw, group.maybe_reraise):
        with pytest.raises(LookupError, match="m2"):
            throw()


def test_what_is_known_costs_one_question(app: Umbel, group: GroupResult[str]) -> None:
    class Asked:
        def __init__(self, inner: ResultStore) -> None:
            self.inner = inner
            self.times = 0

        def get(self, task_ids: list[str]) -> dict[str, bytes]:
            self.times += 1
            return self.inner.get(task_ids)

    asked: Any = Asked(app.bridge.store)
    finish(app.bridge.store, *group.results)
    app.bridge.store = asked
    assert group.ready()
    assert group.successful()
    assert asked.times == 1


def test_forget_deletes_all(store: ResultStore, group: GroupResult[str]) -> None:
    finish(store, *group.results)
    assert group.ready()
    group.forget()
    assert {each.state for each in group} == {PENDING}


# --- as a collection


def test_a_set_is_a_collection(app: Umbel) -> None:
    a, b, c = (AsyncResult[int](each, app=app) for each in "abc")
    results = ResultSet([a, b], app=app)
    results.add(b)
    results.update([c, a])
    assert (list(results), len(results), results[2]) == ([a, b, c], 3, c)
    assert results == ResultSet([a, b, c])
    assert results != ResultSet([a, b])
    assert repr(results) == "<ResultSet: [a, b, c]>"
    results.remove(b)
    results.discard("nothing")
    with pytest.raises(KeyError):
        results.remove(b)
    assert results.results == [a, c]
    results.clear()
    assert not list(results)
    assert results.supports_native_join


def test_a_group_has_an_id(app: Umbel) -> None:
    members = [AsyncResult[int]("m", app=app)]
    group = GroupResult("g", members, app=app)
    assert (str(group), group.children, bool(group)) == ("g", members, True)
    assert not GroupResult(None, [])
    assert GroupResult("g", [])
    assert group == GroupResult("g", members)
    assert group == "g"
    assert group != GroupResult("h", members)
    assert group != GroupResult("g", [])
    assert repr(group) == "<GroupResult: g [m]>"
    assert {group} == {GroupResult("g", members)}


def test_a_large_group_is_joined_in_one_watch(app: Umbel, store: ResultStore) -> None:
    members = [AsyncResult[int](str(number), app=app) for number in range(20_000)]
    group = GroupResult("g", members, app=app)
    waiting = in_thread(group.get, timeout=PATIENCE)
    entered(app, 20_000)
    put(store, *(each.id for each in members), value=2)
    assert waiting() == [2] * 20_000
    assert group.completed_count() == 20_000


def test_a_group_is_saved_and_found_again(app: Umbel, store: ResultStore) -> None:
    inner = GroupResult("inner", [app.AsyncResult("b")], app=app)
    saved: GroupResult[Any] = GroupResult("outer", [app.AsyncResult("a"), inner], app=app)  # type: ignore[list-item]
    assert app.GroupResult.restore("outer") is None
    saved.save()
    assert store.saved_group("outer") is not None
    for found in (app.GroupResult.restore("outer"), GroupResult.restore("outer", app=app)):
        assert found == saved
    saved.delete()
    assert app.GroupResult.restore("outer") is None


def test_what_is_no_result_is_refused_where_it_is_given(app: Umbel) -> None:
    wrong: Any = "a"
    with pytest.raises(TypeError, match="expected results of tasks or groups, got 'a'"):
        ResultSet([wrong], app=app)
    with pytest.raises(TypeError, match="expected results of tasks or groups, got 'a'"):
        ResultSet[Any](app=app).add(wrong)


def test_a_timeout_is_a_number(group: GroupResult[str]) -> None:
    wrong: Any = "5"
    message = "timeout: expected a number of seconds or None, got '5'"
    for wait in (group.get, group.join, group.results[0].get):
        with pytest.raises(TypeError, match=message):
            wait(timeout=wrong)
    with pytest.raises(TypeError, match=message):
        asyncio.run(group.aget(timeout=wrong))
