"""What type checkers must know about results; checked with the other tests, never run."""

from __future__ import annotations

from typing import assert_type

from umbel import Umbel, group
from umbel.result import AsyncResult, EagerResult, GroupResult, ResultSet, StateChange

app = Umbel("tasks")


@app.task
def add(x: int, y: int) -> int:
    return x + y


def threads() -> None:
    result = add.delay(1, 2)
    assert_type(result, AsyncResult[int])
    assert_type(result.get(), int)
    assert_type(result.get(3.0, propagate=False), int)
    assert_type(result.wait(), int)
    for change in result.follow(timeout=1.0):
        assert_type(change, StateChange)
    assert_type(add.apply((1, 2)), EagerResult[int])
    assert_type(add.apply((1, 2)).get(), int)
    result.then(lambda ready: assert_type(ready, AsyncResult[int]))


def groups() -> None:
    results = group([add.s(1, 2)]).apply_async()
    assert_type(results, GroupResult[int])
    assert_type(results.get(), list[int])
    assert_type(results.join(), list[int])
    assert_type(results[0], AsyncResult[int])
    for each in results:
        assert_type(each, AsyncResult[int])
    for each in results.as_completed():
        assert_type(each, AsyncResult[int])
    for value in results.iterate():
        assert_type(value, int)
    assert_type(ResultSet([add.delay(1, 2)]).get(), list[int])


async def coroutines() -> None:
    result = add.delay(1, 2)
    assert_type(await result, int)
    assert_type(await result.aget(timeout=1.0), int)
    async for change in result.follow():
        assert_type(change, StateChange)
    results = group([add.s(1, 2)]).apply_async()
    assert_type(await results, list[int])
    assert_type(await results.aget(), list[int])
    async for each in results:
        assert_type(each, AsyncResult[int])


def results_are_covariant(one: AsyncResult[int], many: GroupResult[int]) -> None:
    def takes(_: AsyncResult[float], __: ResultSet[float]) -> None: ...

    takes(one, many)
