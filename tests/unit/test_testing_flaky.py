"""The fault injector, around the memory server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost, Unroutable
from umbel.ids import new_id
from umbel.message import Effects, Message, ResultRecord
from umbel.servers.seams import Consumer, Server
from umbel.states import SUCCESS
from umbel.testing.clock import FakeClock
from umbel.testing.flaky import (
    AFTER,
    BEFORE,
    DELAY,
    DROP,
    DUPLICATE,
    Fault,
    FlakyServer,
    chance,
    script,
)
from umbel.testing.probe import Probe
from umbel.topology import Queue, Topology


@pytest.fixture
def inner() -> Iterator[Server]:
    server = servers.open(f"memory://{new_id()}")
    server.transport.declare(Topology(queues=(Queue("q"),)))
    yield server
    server.close()


def publish(server: Server, *task_ids: str, queue: str = "q") -> None:
    messages = [Message(task_id, b"", {}, queue) for task_id in task_ids]
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + 5.0)


def begin(server: Server) -> Consumer:
    return server.transport.consume(["q"], consumer_id=new_id(), lease=60.0)


def receive(consumer: Consumer, limit: int = 10) -> list[str]:
    return [each.message.id for each in consumer.receive(limit, 0.0)]


def test_before_performs_nothing(inner: Server) -> None:
    server = FlakyServer(inner, script(publish=[BEFORE]))
    with pytest.raises(ConnectionLost, match="publish"):
        publish(server, "a")
    publish(server, "b")
    assert receive(begin(inner)) == ["b"]


def test_after_performs_and_loses_the_answer(inner: Server) -> None:
    server = FlakyServer(inner, script(publish=[AFTER]))
    with pytest.raises(ConnectionLost):
        publish(server, "a")
    assert receive(begin(inner)) == ["a"]


def test_after_loses_refusals_too(inner: Server) -> None:
    server = FlakyServer(inner, script(publish=[AFTER]))
    with pytest.raises(ConnectionLost):
        publish(server, "a", queue="nowhere")
    with pytest.raises(Unroutable):
        publish(server, "a", queue="nowhere")


def test_delay_lets_time_pass_first(inner: Server) -> None:
    clock = FakeClock(0.0)
    server = FlakyServer(inner, script(publish=[Fault("delay", 7.0)]), clock=clock)
    publish(server, "a")
    assert clock.now() == 7.0
    assert receive(begin(inner)) == ["a"]


def test_duplicate_performs_twice(inner: Server) -> None:
    publish(FlakyServer(inner, script(publish=[DUPLICATE])), "a")
    assert receive(begin(inner)) == ["a", "a"]


def test_a_duplicate_of_a_receive_is_delivered_later(inner: Server) -> None:
    consumer = begin(FlakyServer(inner, script(receive=[DUPLICATE])))
    publish(inner, "a")
    assert receive(consumer) == ["a"]
    assert receive(consumer) == ["a"]
    assert receive(consumer) == []


@pytest.mark.parametrize("fault", [BEFORE, AFTER, DROP])
def test_a_session_goes_on_and_returns_what_was_reserved(inner: Server, fault: Fault) -> None:
    consumer = begin(FlakyServer(inner, script(receive=[fault])))
    publish(inner, "a", "b", "c")
    with pytest.raises(ConnectionLost):
        receive(consumer)
    assert receive(consumer, 2) == ["a", "b"]
    assert receive(consumer, 2) == ["c"]


def test_a_watch_tells_again_what_was_lost(inner: Server) -> None:
    watch = FlakyServer(inner, script(follow=[AFTER])).results.watch()
    watch.add(["a"])
    inner.results.put([ResultRecord("a", b"meta", SUCCESS)])
    with pytest.raises(ConnectionLost):
        watch.receive(0.0)
    assert watch.receive(0.0) == [("a", b"meta")]
    assert watch.receive(0.0) == []


def test_faults_stand_at_their_place_in_the_script(inner: Server) -> None:
    server = FlakyServer(inner, script(renew=[None, BEFORE, None]))
    server.transport.renew([], lease=1.0)
    with pytest.raises(ConnectionLost):
        server.transport.renew([], lease=1.0)
    for _ in range(3):
        server.transport.renew([], lease=1.0)


def test_every_operation_of_every_part_may_fail(inner: Server) -> None:
    server = FlakyServer(inner, lambda _operation: BEFORE)
    ledger = server.ledger
    assert ledger is not None
    calls: list[Callable[[], object]] = [
        lambda: server.transport.declare(Topology()),
        server.transport.recover,
        lambda: server.transport.depth([]),
        server.transport.queues,
        lambda: server.transport.purge([]),
        lambda: begin(server),
        lambda: server.results.put([]),
        lambda: server.results.get([]),
        lambda: server.results.forget([]),
        server.results.watch,
        lambda: server.committer.commit([Effects(None)]),
        ledger.dead_letters,
        lambda: ledger.requeue([]),
        lambda: ledger.drop([]),
        lambda: ledger.revoke([], expires_in=1.0),
        lambda: ledger.revoked([]),
        lambda: ledger.announce("n", {}, expires_in=1.0),
        ledger.nodes,
        lambda: ledger.retire("n"),
        lambda: ledger.acquire("l", "h", lease=1.0),
        lambda: ledger.release("l", "h"),
    ]
    for call in calls:
        with pytest.raises(ConnectionLost):
            call()
    assert server.faults.counts.total() == len(calls)


def test_faults_are_counted_and_told(inner: Server) -> None:
    server = FlakyServer(inner, script(publish=[DUPLICATE, DELAY]))
    with Probe() as probe:
        publish(server, "a")
        publish(server, "b")
    assert server.faults.counts == {("publish", "duplicate"): 1, ("publish", "delay"): 1}
    assert probe.seen("fault.injected", kind="delay") == [{"operation": "publish", "kind": "delay"}]


def test_chance_gives_the_same_faults_for_the_same_seed() -> None:
    rates = {"publish": {BEFORE: 0.3, AFTER: 0.3}, "*": {DELAY: 1.0}}
    first, second = chance(7, rates), chance(7, rates)
    drawn = [first("publish") for _ in range(100)]
    assert drawn == [second("publish") for _ in range(100)]
    assert set(drawn) == {None, BEFORE, AFTER}
    assert first("commit") is DELAY


def test_chance_leaves_alone_what_has_no_rate() -> None:
    plan = chance(7, {"publish": {BEFORE: 1.0}})
    assert plan("commit") is None
