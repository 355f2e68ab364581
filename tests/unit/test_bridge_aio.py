"""Coroutines: results without a thread per wait, publishing in few round trips."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from tests.results import meta, nothing_left, put
from umbel import servers
from umbel.bridge import ResultBridge, aio
from umbel.exceptions import (
    BackendError,
    ConnectionLost,
    MessageTooLarge,
    PublishError,
    TimeoutError,
)
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import ResultStore
from umbel.testing.contract.stage import PATIENCE, eventually, in_thread
from umbel.testing.flaky import BEFORE, FlakyServer, script


@pytest.fixture
def store() -> ResultStore:
    return servers.open(f"memory://{new_id()}").results


@pytest.fixture
def bridge(store: ResultStore) -> Iterator[ResultBridge]:
    bridge = ResultBridge(store)
    yield bridge
    bridge.close()


def followed(bridge: ResultBridge, count: int) -> bool:
    return len(bridge._waiting) == count and not bridge._new


async def until(bridge: ResultBridge, count: int) -> None:
    """Let the loop turn until the watch follows so many tasks."""
    await aio.call(eventually, lambda: followed(bridge, count), f"{count} tasks followed")


# --- results


def test_wait_returns_what_is_stored_and_what_comes(
    store: ResultStore, bridge: ResultBridge
) -> None:
    before, after = new_id(), new_id()
    put(store, before)

    async def main() -> dict[str, bytes]:
        waiting = asyncio.create_task(aio.wait(bridge, [before, after], timeout=PATIENCE))
        await until(bridge, 1)
        put(store, after)
        return await waiting

    assert asyncio.run(main()) == {before: meta(before), after: meta(after)}
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_a_thousand_coroutines_need_one_background_thread(
    store: ResultStore, bridge: ResultBridge
) -> None:
    task_ids = [new_id() for _ in range(1000)]
    threads = threading.active_count()

    async def main() -> list[dict[str, bytes]]:
        waits = [aio.wait(bridge, [each], timeout=PATIENCE) for each in task_ids]
        waiting = asyncio.gather(*waits)
        while not followed(bridge, 1000):  # noqa: ASYNC110 -- turns of the loop, no time
            await asyncio.sleep(0)
        assert threading.active_count() == threads + 1
        put(store, *task_ids)
        return await waiting

    assert asyncio.run(main()) == [{each: meta(each)} for each in task_ids]
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_wait_ends_at_its_timeout(bridge: ResultBridge) -> None:
    with pytest.raises(TimeoutError, match=r"^no result of a in 0\.05 s$"):
        asyncio.run(aio.wait(bridge, ["a"], timeout=0.05))
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_wait_without_time_still_returns_what_is_stored(
    store: ResultStore, bridge: ResultBridge
) -> None:
    task_id = new_id()
    put(store, task_id)
    assert asyncio.run(aio.wait(bridge, [task_id], timeout=0)) == {task_id: meta(task_id)}


def test_cancelling_ends_the_wait_and_leaves_nothing(
    store: ResultStore, bridge: ResultBridge
) -> None:
    kept = new_id()

    async def main() -> dict[str, bytes]:
        waiting = asyncio.create_task(aio.wait(bridge, [kept], timeout=PATIENCE))
        entered = asyncio.create_task(aio.wait(bridge, [new_id()]))
        await until(bridge, 2)
        entering = asyncio.create_task(aio.wait(bridge, [new_id()]))
        await asyncio.sleep(0)
        for each in (entered, entering):
            each.cancel()
            with pytest.raises(asyncio.CancelledError):
                await each
        await until(bridge, 1)
        put(store, kept)
        return await waiting

    assert set(asyncio.run(main())) == {kept}
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_when_the_last_waiter_has_gone_the_reader_lets_threads_lead(
    store: ResultStore, bridge: ResultBridge
) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aio.wait(bridge, [new_id()]), 0.05)

    asyncio.run(main())
    eventually(lambda: bridge._leader is None, "nobody leads")
    task_id = new_id()
    put(store, task_id)
    assert set(bridge.wait([task_id], timeout=PATIENCE)) == {task_id}


def test_loops_in_several_threads_and_threads_wait_together(
    store: ResultStore, bridge: ResultBridge
) -> None:
    wanted = [[new_id() for _ in range(20)] for _ in range(6)]

    async def main(mine: list[str]) -> set[str]:
        found = await asyncio.gather(*(aio.wait(bridge, [each]) for each in mine))
        return {task_id for each in found for task_id in each}

    def wait(mine: list[str]) -> set[str]:
        return set(bridge.wait(mine, timeout=PATIENCE))

    joins = [in_thread(asyncio.run, main(mine)) for mine in wanted[:3]]
    joins += [in_thread(wait, mine) for mine in wanted[3:]]
    for column in zip(*wanted, strict=True):
        put(store, *column)
    assert [join() for join in joins] == [set(mine) for mine in wanted]
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_each_and_follow_tell_of_intermediate_metas(
    store: ResultStore, bridge: ResultBridge
) -> None:
    task_id = new_id()

    async def main() -> list[bytes]:
        seen: list[bytes] = []
        told: list[bytes] = []
        waiting = asyncio.create_task(
            aio.wait(
                bridge, [task_id], timeout=PATIENCE, each=lambda _, stored: told.append(stored)
            )
        )
        async with aclosing(aio.follow(bridge, [task_id], timeout=PATIENCE)) as batches:
            put(store, task_id, state="PROGRESS", value=0)
            async for arrivals in batches:
                seen += [stored for _, stored, _ in arrivals]
                if len(seen) < 3:
                    put(store, task_id, state="PROGRESS", value=len(seen))
                else:
                    put(store, task_id)
        await waiting
        assert told[-1] == meta(task_id)
        return seen

    expected = [meta(task_id, "PROGRESS", value) for value in range(3)]
    assert asyncio.run(main()) == [*expected, meta(task_id)]
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_a_loop_that_was_closed_harms_nobody(store: ResultStore, bridge: ResultBridge) -> None:
    abandoned, task_id = new_id(), new_id()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(aio.wait(bridge, [abandoned]))
    loop.run_until_complete(until(bridge, 1))
    loop.close()
    put(store, abandoned)
    put(store, task_id)
    assert set(bridge.wait([task_id], timeout=PATIENCE)) == {task_id}
    eventually(lambda: not bridge._waiting, "nobody waits")
    waiting.get_coro().close()  # as the interpreter does at its end
    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


def test_coroutines_are_told_of_errors_and_of_the_end(bridge: ResultBridge) -> None:
    lost = FlakyServer(servers.open(f"memory://{new_id()}"), script(follow=[BEFORE] * 1000))
    with pytest.raises(ConnectionLost):
        asyncio.run(aio.wait(ResultBridge(lost.results, patience=0.0), [new_id()]))

    async def main() -> None:
        waiting = asyncio.create_task(aio.wait(bridge, [new_id()]))
        await until(bridge, 1)
        bridge.close()
        await waiting

    with pytest.raises(BackendError):
        asyncio.run(main())


def test_call_runs_a_function_in_a_thread_with_the_callers_context() -> None:
    variable = ContextVar("variable", default=0)

    async def main() -> tuple[int, bool]:
        variable.set(7)
        here = threading.get_ident()
        return await aio.call(lambda: (variable.get(), threading.get_ident() != here))

    assert asyncio.run(main()) == (7, True)


# --- publishing


class Sent:
    """Publishes into a list, as slowly or badly as told."""

    def __init__(self, *errors: Exception | None) -> None:
        self.trips: list[list[str]] = []
        self.asked: list[tuple[Sequence[Any], float | None, Any]] = []
        self.errors = iter(errors)
        self.may_go = threading.Event()
        self.may_go.set()
        self.busy = threading.Event()

    def publish(
        self,
        messages: Sequence[Message],
        routes: Sequence[Any] = (),
        *,
        deadline_in: float | None = None,
        policy: Any = None,
    ) -> None:
        self.busy.set()
        assert self.may_go.wait(PATIENCE)
        self.trips.append([each.id for each in messages])
        self.asked.append((routes, deadline_in, policy))
        error = next(self.errors, None)
        if error is not None:
            raise error


def message(task_id: str, body: bytes = b"") -> Message:
    return Message(task_id, body, {}, "queue")


async def publish_all(publisher: aio.AsyncPublisher, *task_ids: str) -> list[Any]:
    sending = [publisher.publish([message(each)]) for each in task_ids]
    return await asyncio.gather(*sending, return_exceptions=True)


def test_what_is_published_in_one_turn_goes_in_few_round_trips() -> None:
    sent = Sent()
    task_ids = [str(number) for number in range(2500)]
    answers = asyncio.run(publish_all(aio.AsyncPublisher(sent.publish), *task_ids))
    assert answers == [None] * 2500
    assert [each for trip in sent.trips for each in trip] == task_ids
    assert [len(trip) for trip in sent.trips] == [1000, 1000, 500]


def test_large_messages_go_in_more_round_trips() -> None:
    sent = Sent()
    publisher = aio.AsyncPublisher(sent.publish)

    async def main() -> None:
        large = b"x" * (aio.MOST_BYTES // 2)
        await asyncio.gather(*(publisher.publish([message(str(n), large)]) for n in range(5)))

    asyncio.run(main())
    assert [len(trip) for trip in sent.trips] == [2, 2, 1]


def test_while_one_load_is_published_the_next_collects() -> None:
    sent = Sent()
    publisher = aio.AsyncPublisher(sent.publish)

    async def main() -> None:
        sent.may_go.clear()
        first = asyncio.create_task(publisher.publish([message("first")]))
        await aio.call(sent.busy.wait, PATIENCE)
        others = []
        for number in range(3):
            others.append(asyncio.create_task(publisher.publish([message(str(number))])))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        sent.may_go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert sent.trips == [["first"], ["0", "1", "2"]]


def test_what_goes_together_has_the_same_terms_and_all_routes() -> None:
    sent = Sent()
    publisher = aio.AsyncPublisher(sent.publish)

    async def main() -> None:
        await asyncio.gather(
            publisher.publish([message("a")], ["to a"]),
            publisher.publish([message("b")], ["to b"]),
            publisher.publish([message("c")], ["to a"], deadline_in=1.0),
            publisher.publish([message("d")], ["to a"], deadline_in=1.0, policy="once"),
        )

    asyncio.run(main())
    assert sent.trips == [["a", "b"], ["c"], ["d"]]
    assert sent.asked == [
        (["to a", "to b"], None, None),
        (["to a"], 1.0, None),
        (["to a"], 1.0, "once"),
    ]


def test_each_is_told_of_its_own_messages_fate() -> None:
    refused = PublishError("no", [("b", "full"), ("d", "gone")])
    sent = Sent(refused)
    answers = asyncio.run(publish_all(aio.AsyncPublisher(sent.publish), "a", "b", "c", "d"))
    assert [answers[0], answers[2]] == [None, None]
    assert [answers[1].refused, answers[3].refused] == [[("b", "full")], [("d", "gone")]]
    assert sent.trips == [["a", "b", "c", "d"]]


def test_one_message_that_is_too_large_does_not_stop_the_others() -> None:
    sent = Sent(MessageTooLarge("nothing was sent", [("b", "too large")]))
    answers = asyncio.run(publish_all(aio.AsyncPublisher(sent.publish), "a", "b", "c"))
    assert [answers[0], type(answers[1]), answers[2]] == [None, MessageTooLarge, None]
    assert sent.trips == [["a", "b", "c"], ["a", "c"]]


def test_an_error_of_all_is_told_to_all_and_the_next_call_goes_on() -> None:
    sent = Sent(ConnectionLost("away"))
    publisher = aio.AsyncPublisher(sent.publish)
    answers = asyncio.run(publish_all(publisher, "a", "b"))
    assert [type(each) for each in answers] == [ConnectionLost, ConnectionLost]
    assert asyncio.run(publish_all(publisher, "c")) == [None]


def test_who_is_cancelled_before_leaving_takes_the_message_back() -> None:
    sent = Sent()
    publisher = aio.AsyncPublisher(sent.publish)

    async def main() -> None:
        sent.may_go.clear()
        first = asyncio.create_task(publisher.publish([message("first")]))
        await aio.call(sent.busy.wait, PATIENCE)
        tasks = [asyncio.create_task(publisher.publish([message(each)])) for each in "ab"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        first.cancel()  # too late: it is on its way
        await asyncio.sleep(0)
        sent.may_go.set()
        await tasks[1]

    asyncio.run(main())
    assert sent.trips == [["first"], ["b"]]


def test_several_loops_publish_through_one_courier() -> None:
    sent = Sent()
    publisher = aio.AsyncPublisher(sent.publish)
    names = [[f"{loop}-{number}" for number in range(50)] for loop in range(4)]
    joins = [in_thread(asyncio.run, publish_all(publisher, *mine)) for mine in names]
    assert [join() for join in joins] == [[None] * 50] * 4
    assert sorted(each for trip in sent.trips for each in trip) == sorted(
        each for mine in names for each in mine
    )


def test_importing_it_does_not_import_asyncio() -> None:
    program = "import sys, umbel.bridge.aio, umbel.result; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"False\n"
