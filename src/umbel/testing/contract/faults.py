"""What holds when connections break: every promise about repeating, with faults put in on purpose.

The stage's own server stays sound; what is tested goes through a ``FlakyServer`` beside it. The
fault injector breaks the calls, not the sockets; a server's own tests cut its network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost
from umbel.message import Delivery, Effects, Message
from umbel.servers.seams import DeadConsumer
from umbel.testing.contract.stage import P, Stage, Suite, T, ids, in_thread, message
from umbel.testing.flaky import (
    AFTER,
    BEFORE,
    DELAY,
    DROP,
    DUPLICATE,
    Fault,
    FlakyServer,
    Plan,
    chance,
    script,
)

#: Tasks of a storm, and the threads that work on them.
TASKS = 60
WORKERS = 3
#: Seconds until all tasks of a storm must have their results.
STORM = 30.0

_LOST = pytest.mark.parametrize("fault", [BEFORE, AFTER, DROP], ids=lambda fault: fault.kind)


class FaultContract(Suite):
    @_LOST
    def test_a_publish_that_failed_may_be_repeated_with_the_same_ids(
        self, stage: Stage, queue: str, fault: Fault
    ) -> None:
        server = flaky(stage, script(publish=[fault]))
        messages = [message(queue) for _ in range(3)]
        patiently(server.transport.publish, messages, deadline=stage.deadline())
        received = Counter(ids(stage.drain(queue)))
        copies = 2 if fault is AFTER else 1
        assert received == {each.id: copies for each in messages}

    @_LOST
    def test_a_commit_that_failed_may_be_repeated(
        self, stage: Stage, queue: str, fault: Fault
    ) -> None:
        server = flaky(stage, script(commit=[fault]))
        other = stage.queue()
        stage.send(queue, 3)
        held = stage.take(stage.consumer(queue, server=server), 3)
        follow_ups = [message(other) for _ in held]
        batch = [
            Effects(each, results=(stage.record(each.message.id, b"done"),), publish=(follow_up,))
            for each, follow_up in zip(held, follow_ups, strict=True)
        ]
        patiently(server.committer.commit, batch)
        assert stage.results(*ids(held)) == dict.fromkeys(ids(held), b"done")
        assert ids(stage.drain(other)) == [each.id for each in follow_ups]
        assert stage.drain(queue) == []

    @_LOST
    def test_a_session_goes_on_after_a_receive_that_failed_and_nothing_is_lost(
        self, stage: Stage, queue: str, fault: Fault
    ) -> None:
        server = flaky(stage, script(receive=[None, fault]))
        sent = stage.send(queue, 4)
        consumer = stage.consumer(queue, server=server)
        first = consumer.receive(2, timeout=stage.patience)
        with pytest.raises(ConnectionLost):
            consumer.receive(2, timeout=stage.patience)
        rest = stage.take(consumer, 4 - len(first))
        assert ids([*first, *rest]) == sent
        report = server.committer.commit([Effects(each) for each in [*first, *rest]])
        assert report.stale == ()

    @_LOST
    def test_a_give_back_that_failed_may_be_repeated(
        self, stage: Stage, queue: str, fault: Fault
    ) -> None:
        server = flaky(stage, script(give_back=[fault]))
        sent = stage.send(queue, 3)
        consumer = stage.consumer(queue, server=server)
        held = stage.take(consumer, 3)
        patiently(consumer.give_back, held)
        got = stage.drain(queue)
        assert ids(got) == sent
        assert [(each.crashes, each.losses) for each in got] == [(0, 0)] * 3

    @_LOST
    def test_a_recover_that_failed_may_be_repeated_and_charges_once(
        self, stage: Stage, queue: str, fault: Fault
    ) -> None:
        server = flaky(stage, script(recover=[fault]))
        (task_id,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        dead = DeadConsumer(consumer_id, (task_id,))
        patiently(server.transport.recover, [dead])
        assert stage.one(stage.consumer(queue)).crashes == 1

    @_LOST
    def test_a_put_that_failed_may_be_repeated(self, stage: Stage, fault: Fault) -> None:
        server = flaky(stage, script(put=[fault]))
        record = stage.record("some-task", b"meta")
        patiently(server.results.put, [record])
        assert stage.results("some-task") == {"some-task": b"meta"}
        stage.server.results.forget(["some-task"])

    @_LOST
    def test_a_watch_goes_on_after_a_failure_and_misses_nothing(
        self, stage: Stage, fault: Fault
    ) -> None:
        server = FlakyServer(stage.server, script(follow=[fault]))
        watch = server.results.watch()
        watch.add(["one-task", "another"])
        stage.server.results.put([stage.record("one-task"), stage.record("another")])
        told: set[str] = set()
        with pytest.raises(ConnectionLost):
            watch.receive(timeout=0.0)
        while len(told) < 2:
            told |= {task_id for task_id, _ in watch.receive(timeout=stage.patience)}
        watch.close()
        stage.server.results.forget(["one-task", "another"])

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_a_storm_of_faults_loses_no_task_and_forks_no_follow_up(
        self, stage: Stage, queue: str, seed: int
    ) -> None:
        rates = {
            "receive": {BEFORE: 0.1, AFTER: 0.1, DROP: 0.05, DELAY: 0.1},
            "commit": {BEFORE: 0.1, AFTER: 0.2, DELAY: 0.1},
            "give_back": {BEFORE: 0.2, AFTER: 0.2},
        }
        server = flaky(stage, chance(seed, rates))
        other = stage.queue()
        sent = stage.send(queue, TASKS)
        storm(stage, server, queue, lambda task: message(other, id=f"after-{task.id}"), sent)
        assert set(stage.results(*sent)) == set(sent)
        follow_ups = Counter(ids(stage.drain(other)))
        assert set(follow_ups) == {f"after-{task_id}" for task_id in sent}
        if stage.atomic:
            assert set(follow_ups.values()) == {1}
        assert stage.drain(queue) == []
        kinds = {operation for operation, _ in server.faults.counts}
        assert kinds >= {"receive", "commit"}, server.faults.counts
        print(f"faults met: {dict(server.faults.counts)}")  # noqa: T201 -- into the report

    @pytest.mark.timeout(300)
    def test_a_storm_of_duplicates_loses_no_task(self, stage: Stage, queue: str) -> None:
        rates = {"receive": {DUPLICATE: 0.3}, "commit": {DUPLICATE: 0.3}}
        server = flaky(stage, chance(4, rates))
        other = stage.queue()
        sent = stage.send(queue, TASKS)
        storm(stage, server, queue, lambda task: message(other, id=f"after-{task.id}"), sent)
        stage.drain(queue)
        assert set(stage.results(*sent)) == set(sent)
        assert set(ids(stage.drain(other))) == {f"after-{task_id}" for task_id in sent}
        assert server.faults.counts["receive", "duplicate"] > 0


def flaky(stage: Stage, plan: Plan) -> FlakyServer:
    """Open another handle of the stage's server, with faults."""
    return FlakyServer(stage.open(), plan)


def patiently(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Repeat a call as long as its connection is lost, as its callers do."""
    while True:
        try:
            return call(*args, **kwargs)
        except ConnectionLost:
            continue


def storm(
    stage: Stage,
    server: FlakyServer,
    queue: str,
    follow_up: Callable[[Message], Message],
    sent: Sequence[str],
) -> None:
    """Work on a queue with a few threads until every task has its result."""
    deadline = SYSTEM_CLOCK.monotonic() + STORM

    def finish(delivery: Delivery) -> Effects:
        record = stage.record(delivery.message.id, b"done")
        return Effects(delivery, results=(record,), publish=(follow_up(delivery.message),))

    def work() -> None:
        consumer = stage.consumer(queue, server=server)
        while len(stage.results(*sent)) < len(sent):
            assert SYSTEM_CLOCK.monotonic() < deadline, f"not all results after {STORM} s"
            held = patiently(consumer.receive, 5, 0.05)
            patiently(consumer.give_back, held[3:])
            patiently(server.committer.commit, [finish(each) for each in held[:3]])
        consumer.close()

    for join in [in_thread(work) for _ in range(WORKERS)]:
        join()
