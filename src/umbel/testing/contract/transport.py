"""Publishing and routing: the promises of ``Transport``, leases and recovery apart."""

from __future__ import annotations

import pytest

from umbel.exceptions import TimeoutError, TopologyConflict, Unroutable
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import Place
from umbel.testing.contract.stage import LONG, Stage, Suite, eventually, ids, in_thread, message
from umbel.topology import Binding, Exchange, ExchangeType, Queue, Topology, all_bindings


class TransportContract(Suite):
    # --- declare

    def test_declare_makes_a_queue_exist(self, stage: Stage) -> None:
        name = stage.queue()
        assert name in stage.transport.queues()

    def test_declare_is_idempotent(self, stage: Stage) -> None:
        topology = fan(stage, "topic", {"red.#": 1, "*.blue": 1})
        stage.transport.declare(topology)
        stage.open().transport.declare(topology)
        red, _ = (queue.name for queue in topology.queues)
        stage.publish(to(topology, "red.hot"))
        assert len(stage.drain(red)) == 1

    def test_declare_again_keeps_what_waits_in_the_queue(self, stage: Stage) -> None:
        queue = stage.queue()
        sent = stage.send(queue)
        stage.transport.declare(Topology(queues=(Queue(queue),)))
        assert ids(stage.drain(queue)) == sent

    def test_declare_refuses_an_exchange_of_another_type(self, stage: Stage) -> None:
        name = f"x-{new_id()}"
        stage.transport.declare(Topology(exchanges=(Exchange(name, "direct"),)))
        with pytest.raises(TopologyConflict, match=name):
            stage.open().transport.declare(Topology(exchanges=(Exchange(name, "topic"),)))

    def test_declare_refuses_a_queue_with_other_properties(self, stage: Stage) -> None:
        name = stage.queue(message_ttl=100.0)
        with pytest.raises(TopologyConflict, match=name):
            stage.open().transport.declare(Topology(queues=(Queue(name, message_ttl=200.0),)))

    def test_bindings_are_all_that_exist(self, stage: Stage) -> None:
        topology = fan(stage, "topic", {"red.#": 1, "*.blue": 1})
        stage.transport.declare(topology)
        found = stage.open().transport.bindings()
        if found is not None:
            assert set(map(_way, all_bindings(topology))) <= set(map(_way, found))

    def test_declared_topology_is_seen_by_other_handles(self, stage: Stage) -> None:
        topology = fan(stage, "fanout", {"": 1})
        stage.open().transport.publish([to(topology, "any")], deadline=stage.deadline())
        assert len(stage.drain(topology.queues[0].name)) == 1

    # --- publish

    def test_publish_has_stored_all_on_return(self, stage: Stage) -> None:
        queue = stage.queue()
        sent = stage.send(queue, 3)
        assert ids(stage.take(stage.consumer(queue, server=stage.open()), 3)) == sent

    def test_publish_keeps_the_order_of_the_messages(self, stage: Stage, queue: str) -> None:
        sent = [*stage.send(queue, 50), *stage.send(queue), *stage.send(queue, 50)]
        assert ids(stage.take(stage.consumer(queue), 101)) == sent

    def test_publish_of_nothing_is_allowed(self, stage: Stage) -> None:
        stage.publish()

    def test_publish_carries_every_field(self, stage: Stage, queue: str) -> None:
        sent = message(
            queue,
            body=bytes(range(256)),
            headers={"lang": "py", "retries": 3, "nested": {"a": [1, None, True, "é"]}},
            content_type="application/x-python-serialize",
            content_encoding="binary",
            priority=3,
            reply_to="somebody",
            expires_at=stage.clock.now() + LONG,
            sent_at=stage.clock.now(),
            properties={"message_id": "m-1", "type": "t"},
        )
        stage.publish(sent)
        got = stage.one(stage.consumer(queue)).message
        for name in ("id", "body", "routing_key", "exchange", "content_type", "content_encoding"):
            assert getattr(got, name) == getattr(sent, name), name
        assert got.headers.items() >= sent.headers.items()
        assert (got.priority, got.reply_to) == (sent.priority, sent.reply_to)
        assert got.expires_at == pytest.approx(sent.expires_at, abs=0.001)
        assert got.sent_at == pytest.approx(sent.sent_at, abs=0.001)
        assert (got.properties or {}).items() >= {"message_id": "m-1", "type": "t"}.items()

    @pytest.mark.parametrize("size", [0, 1, 10_000, 1_000_000])
    def test_publish_carries_bodies_of_any_size(self, stage: Stage, queue: str, size: int) -> None:
        body = b"\0\xff" * (size // 2) + b"x" * (size % 2)
        stage.send(queue, body=body)
        assert stage.one(stage.consumer(queue)).message.body == body

    def test_publish_reports_the_unroutable_one_by_one_and_stores_the_rest(
        self, stage: Stage, queue: str
    ) -> None:
        good = [message(queue), message(queue)]
        lost = [message("no-such-queue"), message("key", exchange="no-such-exchange")]
        with pytest.raises(Unroutable) as caught:
            stage.publish(good[0], lost[0], good[1], lost[1])
        assert {task_id for task_id, _ in caught.value.refused} == {each.id for each in lost}
        assert all(reason for _, reason in caught.value.refused)
        assert ids(stage.drain(queue)) == [each.id for each in good]

    def test_publish_to_an_exchange_without_a_binding_for_the_key_is_unroutable(
        self, stage: Stage
    ) -> None:
        topology = fan(stage, "direct", {"red": 1})
        with pytest.raises(Unroutable):
            stage.publish(to(topology, "blue"))

    def test_publish_after_its_deadline_raises_timeout_and_stores_nothing(
        self, stage: Stage, queue: str
    ) -> None:
        with pytest.raises(TimeoutError):
            stage.transport.publish([message(queue)], deadline=stage.clock.monotonic() - 1.0)
        assert stage.drain(queue) == []

    def test_publish_from_many_threads_loses_nothing(self, stage: Stage, queue: str) -> None:
        joins = [in_thread(lambda: stage.send(queue, 25)) for _ in range(4)]
        sent = [task_id for join in joins for task_id in join()]
        assert sorted(ids(stage.drain(queue))) == sorted(sent)

    # --- routing

    def test_the_empty_exchange_leads_to_the_queue_named_by_the_key(self, stage: Stage) -> None:
        first, second = stage.queue(), stage.queue()
        stage.send(first)
        assert len(stage.drain(first)) == 1
        assert stage.drain(second) == []

    def test_a_direct_exchange_leads_to_every_queue_bound_with_the_key(self, stage: Stage) -> None:
        topology = fan(stage, "direct", {"red": 2, "blue": 1})
        stage.publish(to(topology, "red"))
        assert received(stage, topology) == [1, 1, 0]

    def test_a_fanout_exchange_leads_to_every_queue_bound(self, stage: Stage) -> None:
        topology = fan(stage, "fanout", {"": 2, "key": 1})
        stage.publish(to(topology, "whatever"))
        assert received(stage, topology) == [1, 1, 1]

    @pytest.mark.parametrize(
        ("pattern", "key", "taken"),
        [
            ("red.*", "red.hot", True),
            ("red.*", "red", False),
            ("red.*", "red.hot.now", False),
            ("red.#", "red", True),
            ("red.#", "red.hot.now", True),
            ("#", "anything.at.all", True),
            ("#.now", "now", True),
            ("red.#.now", "red.now", True),
            ("red.#.now", "red.a.b.now", True),
            ("*.hot", "red.hot", True),
            ("*.hot", "hot", False),
        ],
    )
    def test_a_topic_exchange_matches_words_and_hash_also_none(
        self, stage: Stage, pattern: str, key: str, *, taken: bool
    ) -> None:
        topology = fan(stage, "topic", {pattern: 1, "always.": 1})
        always = Binding(topology.exchanges[0].name, topology.queues[1].name, "#")
        stage.transport.declare(Topology(bindings=(always,)))
        stage.publish(to(topology, key))
        assert received(stage, topology) == [int(taken), 1]

    def test_a_queue_bound_twice_takes_a_message_once(self, stage: Stage) -> None:
        topology = fan(stage, "topic", {"red.*": 1})
        exchange, queue = topology.exchanges[0].name, topology.queues[0].name
        stage.transport.declare(Topology(bindings=(Binding(exchange, queue, "#"),)))
        stage.publish(to(topology, "red.hot"))
        assert received(stage, topology) == [1]

    def test_a_message_remembers_its_exchange_and_key(self, stage: Stage) -> None:
        topology = fan(stage, "direct", {"red": 1})
        stage.publish(to(topology, "red"))
        delivery = stage.one(stage.consumer(topology.queues[0].name))
        assert delivery.message.exchange == topology.exchanges[0].name
        assert delivery.message.routing_key == "red"
        assert delivery.queue == topology.queues[0].name

    # --- delay, expiry, priority

    def test_a_delayed_message_is_not_received_before_its_time(
        self, stage: Stage, queue: str
    ) -> None:
        ahead = stage.short + stage.transport.capabilities.delay_precision
        stage.send(queue, not_before=stage.clock.now() + ahead)
        stage.nothing(stage.consumer(queue))

    def test_a_delayed_message_is_received_when_it_is_due(self, stage: Stage, queue: str) -> None:
        due_at = stage.clock.now() + stage.short
        sent = stage.send(queue, not_before=due_at)
        consumer = stage.consumer(queue)
        stage.lapse(stage.short)
        assert ids(stage.take(consumer)) == sent
        assert stage.clock.now() >= due_at - stage.transport.capabilities.delay_precision

    def test_a_receive_that_waits_gets_what_becomes_due(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        sent = stage.send(queue, not_before=stage.clock.now() + 0.1)
        assert ids(stage.take(consumer)) == sent

    def test_delayed_messages_come_in_the_order_they_are_due(
        self, stage: Stage, queue: str
    ) -> None:
        now, part = stage.clock.now(), stage.short / 3
        late = stage.send(queue, not_before=now + 2 * part)
        early = stage.send(queue, not_before=now + part)
        consumer = stage.consumer(queue)
        stage.lapse(part)
        first = stage.take(consumer)
        stage.lapse(2 * part)
        assert ids([*first, *stage.take(consumer)]) == [*early, *late]

    def test_a_message_without_a_delay_overtakes_a_delayed_one(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue, not_before=stage.clock.now() + LONG)
        at_once = stage.send(queue)
        assert ids(stage.take(stage.consumer(queue))) == at_once

    def test_an_expired_message_is_received_all_the_same(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, expires_at=stage.clock.now() - 1.0)
        assert ids(stage.take(stage.consumer(queue))) == sent

    def test_higher_priority_is_received_first_then_earlier_sent(self, stage: Stage) -> None:
        queue = stage.queue(max_priority=9)
        low = stage.send(queue, 2, priority=0)
        high = stage.send(queue, 2, priority=9)
        middle = stage.send(queue, 2, priority=5)
        assert ids(stage.take(stage.consumer(queue), 6)) == [*high, *middle, *low]

    def test_as_many_priorities_are_told_apart_as_declared(self, stage: Stage) -> None:
        queue = stage.queue(max_priority=9)
        distinct = stage.transport.capabilities.priorities
        levels = [round(step * 9 / max(1, distinct - 1)) for step in range(distinct)]
        sent = [stage.send(queue, priority=level)[0] for level in levels]
        assert ids(stage.take(stage.consumer(queue), distinct)) == sent[::-1]

    @pytest.mark.parametrize("priority", [-5, 255])
    def test_a_priority_outside_of_0_to_9_is_carried(
        self, stage: Stage, queue: str, priority: int
    ) -> None:
        sent = stage.send(queue, priority=priority)
        assert ids(stage.take(stage.consumer(queue))) == sent

    # --- depth, queues, purge

    def test_depth_counts_ready_delayed_and_held(self, stage: Stage, queue: str) -> None:
        stage.send(queue, 3)
        stage.send(queue, 2, not_before=stage.clock.now() + LONG)
        stage.take(stage.consumer(queue), 1)
        eventually(lambda: counted(stage, queue) == (2, 2, 1), "2 ready, 2 delayed, 1 held")

    def test_depth_counts_what_is_due_as_ready_though_nobody_receives(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue, 2, not_before=stage.clock.now() + stage.short)
        stage.lapse(stage.short + stage.transport.capabilities.delay_precision)
        eventually(lambda: stage.transport.depth([queue])[queue].ready == 2, "2 ready")
        assert stage.transport.depth([queue])[queue].delayed == 0

    def test_depth_tells_when_the_oldest_ready_message_was_sent(
        self, stage: Stage, queue: str
    ) -> None:
        sent_at = stage.clock.now() - 60.0
        stage.send(queue, sent_at=sent_at)
        stage.send(queue, sent_at=sent_at + 30.0)
        oldest_at = stage.transport.depth([queue])[queue].oldest_at
        assert oldest_at is None or oldest_at == pytest.approx(sent_at, abs=1.0)

    def test_depth_counts_the_consumers_if_it_knows_them(self, stage: Stage, queue: str) -> None:
        def consumers() -> int | None:
            return stage.transport.depth([queue])[queue].consumers

        assert not consumers()
        consumer = stage.consumer(queue)
        stage.nothing(consumer)
        assert consumers() in (1, None)
        consumer.close()
        eventually(lambda: not consumers(), "no consumer any more")

    def test_depth_of_an_empty_queue_is_zero(self, stage: Stage, queue: str) -> None:
        depth = stage.transport.depth([queue])[queue]
        assert (depth.ready, depth.delayed, depth.held) == (0, 0, 0)
        assert depth.oldest_at is None

    def test_depth_leaves_out_queues_that_do_not_exist(self, stage: Stage, queue: str) -> None:
        assert list(stage.transport.depth([queue, "no-such-queue"])) == [queue]

    # --- find

    def test_find_says_how_many_are_before_a_message(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 3)
        (place,) = where(stage, sent[2], queue) or (None,)
        if place is not None:
            assert (place.state, place.queue, place.ahead) == ("ready", queue, 2)
            assert place.message.id == sent[2]
            assert place.message.headers.items() >= {"id": sent[2]}.items()

    def test_find_knows_priorities(self, stage: Stage) -> None:
        queue = stage.queue(max_priority=9)
        (low,) = stage.send(queue, priority=0)
        high = stage.send(queue, 2, priority=9)
        assert ahead(stage, low, queue) in (2, None)
        assert ahead(stage, high[1], queue) in (1, None)

    def test_find_knows_when_a_message_is_due(self, stage: Stage, queue: str) -> None:
        stage.consumer(queue)  # a delay waits in the server where somebody lives to see its end
        due_at = stage.clock.now() + LONG
        (sent,) = stage.send(queue, not_before=due_at)
        (soon,) = stage.send(queue, not_before=stage.clock.now() + stage.short)
        for place in where(stage, sent, queue):
            assert (place.state, place.queue, place.ahead) == ("delayed", queue, None)
            assert place.due_at == pytest.approx(due_at, abs=2.0)
        stage.lapse(stage.short)
        assert ahead(stage, soon, queue) in (0, None)

    def test_find_knows_who_holds_a_message(self, stage: Stage, queue: str) -> None:
        (sent,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        stage.one(consumer)
        for place in where(stage, sent):
            assert (place.state, place.queue) == ("held", queue)
            assert place.consumer_id == consumer_id

    def test_find_counts_what_came_back_first(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 5)
        consumer = stage.consumer(queue)
        consumer.give_back(stage.take(consumer, 3))
        assert ahead(stage, sent[2], queue) in (2, None)
        assert ahead(stage, sent[4], queue) in (4, None)

    def test_find_of_a_long_queue_misses_none(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 1203)
        # Both ends, and what is about whole hundreds from either.
        looked_for = [0, *range(197, 207), 600, *range(697, 707), 1202]
        found = [ahead(stage, sent[at], queue) for at in looked_for]
        assert found in (looked_for, [None] * len(looked_for))

    def test_find_takes_an_id_for_what_it_is(self, stage: Stage, queue: str) -> None:
        odd = 'a*[b]"?\\é'
        stage.send(queue, id=odd)
        stage.send(queue, id=f"{odd}2")
        assert ahead(stage, odd, queue) in (0, None)
        assert where(stage, "a", queue) == []

    def test_find_of_what_is_not_there_is_nothing(self, stage: Stage, queue: str) -> None:
        other = stage.queue()
        (elsewhere,) = stage.send(other)
        (done,) = stage.send(queue)
        stage.drain(queue)
        assert where(stage, done, queue) == []
        assert where(stage, elsewhere, queue) == []
        assert where(stage, new_id(), queue, "no-such-queue") == []

    def test_find_finds_every_copy(self, stage: Stage) -> None:
        topology = fan(stage, "fanout", {"": 2})
        sent = to(topology, "any")
        stage.publish(sent)
        queues = [queue.name for queue in topology.queues]
        found = {place.queue for place in where(stage, sent.id, *queues)}
        assert found == set(queues if stage.transport.capabilities.finds else ())

    def test_queues_are_all_that_exist(self, stage: Stage) -> None:
        before = set(stage.transport.queues())
        declared = {stage.queue(), stage.queue()}
        assert set(stage.open().transport.queues()) - before == declared

    def test_purge_deletes_ready_and_delayed_and_counts_them(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue, 3)
        stage.send(queue, 2, not_before=stage.clock.now() + stage.short)
        assert stage.transport.purge([queue]) == 5
        stage.lapse(stage.short)
        assert stage.drain(queue) == []

    def test_purge_leaves_what_is_held(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue)
        consumer = stage.consumer(queue)
        held = stage.take(consumer)
        stage.send(queue)
        assert stage.transport.purge([queue]) == 1
        consumer.give_back(held)
        assert ids(stage.drain(queue)) == sent

    def test_purge_leaves_other_queues(self, stage: Stage, queue: str) -> None:
        other = stage.queue()
        stage.send(other)
        assert stage.transport.purge([queue]) == 0
        assert len(stage.drain(other)) == 1

    def test_after_close_of_the_transport_the_next_call_opens_again(
        self, stage: Stage, queue: str
    ) -> None:
        stage.transport.close()
        stage.transport.close()
        sent = stage.send(queue)
        assert ids(stage.drain(queue)) == sent


def where(stage: Stage, task_id: str, *queues: str) -> list[Place]:
    """Find a message, as another process does; a server that cannot finds nothing."""
    found = list(stage.open().transport.find(task_id, queues))
    assert stage.transport.capabilities.finds or not found
    return found


def ahead(stage: Stage, task_id: str, queue: str) -> int | None:
    """Return how many are ready before a message; None where the server cannot find it."""
    if not stage.transport.capabilities.finds:
        assert where(stage, task_id, queue) == []
        return None
    (place,) = where(stage, task_id, queue)
    assert place.state == "ready"
    assert place.ahead is not None
    return place.ahead


def fan(stage: Stage, kind: ExchangeType, keys: dict[str, int]) -> Topology:
    """Declare an exchange with so many queues for each key."""
    name = f"x-{new_id()}"
    exchange = Exchange(name, kind)
    queues, bindings = [], []
    for key, count in keys.items():
        for _ in range(count):
            queues.append(Queue(f"q-{new_id()}"))
            bindings.append(Binding(name, queues[-1].name, key))
    topology = Topology((exchange,), tuple(queues), tuple(bindings))
    stage.transport.declare(topology)
    return topology


def to(topology: Topology, key: str) -> Message:
    """Make a message for the topology's exchange."""
    return message(key, exchange=topology.exchanges[0].name)


def _way(binding: Binding) -> tuple[str, str, str]:
    return binding.exchange, binding.routing_key, binding.queue


def received(stage: Stage, topology: Topology) -> list[int]:
    """Return how many messages each queue got."""
    return [len(stage.drain(queue.name)) for queue in topology.queues]


def counted(stage: Stage, queue: str) -> tuple[int, int, int]:
    """Return ready, delayed and held; an estimate need only be right about what is ready."""
    depth = stage.transport.depth([queue])[queue]
    if depth.estimate:
        return (depth.ready, 2, 1)
    return (depth.ready, depth.delayed, depth.held)
