"""The order of an ordered commit: what is done, and what is not, if any of its steps fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost
from umbel.ids import new_id
from umbel.message import Delivery, Effects, Ending, Message, ResultRecord
from umbel.servers.ordered import OrderedCommit, SettlingByCommit
from umbel.servers.seams import DeadConsumer, Server
from umbel.states import SUCCESS
from umbel.testing.clock import FakeClock
from umbel.testing.flaky import AFTER, BEFORE, DELAY, FlakyServer, Plan, script
from umbel.testing.probe import Probe
from umbel.topology import Queue, Topology

CONSUMER = "consumer"


@dataclass
class Bench:
    """A broker, a store, and deliveries of the broker's that the tests commit."""

    broker: Server
    store: Server

    def hold(self, count: int = 1) -> list[Delivery]:
        messages = [Message(new_id(), b"", {}, "tasks") for _ in range(count)]
        self.broker.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + 5.0)
        consumer = self.broker.transport.consume(["tasks"], consumer_id=CONSUMER, lease=60.0)
        return consumer.receive(count, 0.0)

    def committer(self, broker: Server | None = None, store: Server | None = None) -> OrderedCommit:
        used = broker or self.broker
        results = (store or self.store).results
        return OrderedCommit(used.transport, results, SettlingByCommit(used.committer))

    def flaky_committer(self, plan: Plan) -> OrderedCommit:
        return self.committer(FlakyServer(self.broker, plan), FlakyServer(self.store, plan))

    def state(self, task_id: str) -> tuple[int, bool, bool]:
        """Return how many follow-ups there are, whether a result, and whether it is held."""
        depth = self.broker.transport.depth(["tasks", "next"])
        stored = bool(self.store.results.get([task_id]))
        return depth["next"].ready, stored, depth["tasks"].held == 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(*(servers.open(f"memory://{new_id()}") for _ in range(2)))
    bench.broker.transport.declare(Topology(queues=(Queue("tasks"), Queue("next"))))
    yield bench
    bench.broker.close()
    bench.store.close()


def success(delivery: Delivery, *follow_ups: str, ending: Ending = Ending.ACK) -> Effects:
    record = ResultRecord(delivery.message.id, b"meta", SUCCESS)
    messages = tuple(Message(new_id(), b"", {}, queue) for queue in follow_ups)
    return Effects(delivery, ending, "its reason", (record,), messages)


@pytest.mark.parametrize(
    ("plan", "left"),
    [
        # commit 1 asks whether we hold it, commit 2 ends the delivery
        (script(commit=[BEFORE]), (0, False, True)),
        (script(publish=[BEFORE]), (0, False, True)),
        (script(publish=[AFTER]), (1, False, True)),
        (script(put=[BEFORE]), (1, False, True)),
        (script(put=[AFTER]), (1, True, True)),
        (script(commit=[None, BEFORE]), (1, True, True)),
        (script(commit=[None, AFTER]), (1, True, False)),
    ],
)
def test_a_step_that_fails_leaves_too_much_and_never_too_little(
    bench: Bench, plan: Plan, left: tuple[int, bool, bool]
) -> None:
    (held,) = bench.hold()
    committer = bench.flaky_committer(plan)
    effects = [success(held, "next")]
    with pytest.raises(ConnectionLost):
        committer.commit(effects)
    assert bench.state(held.message.id) == left
    committer.commit(effects)
    follow_ups, stored, still_held = bench.state(held.message.id)
    assert (follow_ups >= 1, stored, still_held) == (True, True, False)


def test_a_refused_follow_up_stops_its_own_effect_only(bench: Bench) -> None:
    bad, good = bench.hold(2)
    report = bench.committer().commit([success(bad, "nowhere"), success(good, "next")])
    assert report.stale == ()
    assert [each.effects.delivery for each in report.refused] == [bad]
    assert "nowhere" in str(report.refused[0].error)
    assert bench.state(bad.message.id) == (1, False, True)
    assert bench.store.results.get([good.message.id])


def test_one_round_trip_for_each_step_of_any_number_of_effects(bench: Bench) -> None:
    held = bench.hold(20)
    trips: list[str] = []
    committer = bench.flaky_committer(trips.append)
    committer.commit([success(each, "next") for each in held])
    assert trips == ["commit", "publish", "put", "commit"]


@pytest.mark.parametrize("ending", [Ending.ACK, Ending.DEAD, Ending.REQUEUE])
def test_who_loses_its_deliveries_midway_is_told_of(bench: Bench, ending: Ending) -> None:
    (held,) = bench.hold()
    recover = bench.broker.transport.recover
    clock = FakeClock()
    clock.subscribe(lambda: recover([DeadConsumer(CONSUMER)]))  # given up while the store is slow
    slow = FlakyServer(bench.store, script(put=[DELAY]), clock=clock)
    with Probe() as probe:
        bench.committer(store=slow).commit([success(held, ending=ending)])
    assert probe.seen("commit.overtaken") == [{"count": 1}]
    assert bench.broker.transport.depth(["tasks"])["tasks"].ready == 1


def test_a_broker_that_does_not_confirm_in_time_counts_as_lost(bench: Bench) -> None:
    (held,) = bench.hold()
    committer = OrderedCommit(
        bench.broker.transport,
        bench.store.results,
        SettlingByCommit(bench.broker.committer),
        publish_timeout=-1.0,
    )
    with pytest.raises(ConnectionLost, match="in time"):
        committer.commit([success(held, "next")])
    assert bench.state(held.message.id) == (0, False, True)
