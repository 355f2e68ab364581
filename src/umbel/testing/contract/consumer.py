"""Receiving: the promises of ``Consumer``."""

from __future__ import annotations

import threading
from collections import Counter

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Delivery, Effects
from umbel.testing.contract.stage import PATIENCE, Stage, Suite, ids, in_thread, message


class ConsumerContract(Suite):
    # --- receive

    def test_receive_waits_up_to_its_timeout_and_returns_nothing(
        self, stage: Stage, queue: str
    ) -> None:
        consumer = stage.consumer(queue)
        began = SYSTEM_CLOCK.monotonic()
        assert consumer.receive(10, timeout=0.2) == []
        assert 0.15 <= SYSTEM_CLOCK.monotonic() - began < PATIENCE

    def test_receive_without_a_timeout_returns_what_is_there(
        self, stage: Stage, queue: str
    ) -> None:
        sent = stage.send(queue, 3)
        consumer = stage.consumer(queue)
        first = stage.take(consumer, 1)  # a server that pushes has the others on the way
        assert ids([*first, *stage.take(consumer, 2)]) == sent
        assert consumer.receive(10, timeout=0.0) == []

    def test_receive_waits_for_the_first_message_only(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        stage.send(queue)
        began = SYSTEM_CLOCK.monotonic()
        assert len(consumer.receive(10, timeout=2 * PATIENCE)) == 1
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE

    def test_receive_is_woken_by_a_message_published_meanwhile(
        self, stage: Stage, queue: str
    ) -> None:
        consumer = stage.consumer(queue)
        publisher = stage.open()
        waiting = in_thread(lambda: stage.take(consumer))
        sent = stage.send(queue)
        del publisher
        assert ids(waiting()) == sent

    def test_receive_returns_at_most_its_limit(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 10)
        consumer = stage.consumer(queue)
        got: list[Delivery] = []
        while len(got) < 10:
            batch = consumer.receive(3, timeout=PATIENCE)
            assert 1 <= len(batch) <= 3
            got += batch
        assert ids(got) == sent

    def test_received_messages_are_held_and_not_received_again(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue)
        stage.take(stage.consumer(queue))
        stage.nothing(stage.consumer(queue))

    def test_first_delivery_counts_nothing(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        delivery = stage.one(stage.consumer(queue))
        assert (delivery.crashes, delivery.losses) == (0, 0)
        assert [delivery.suspect, delivery.redelivered, delivery.revoked] == [False] * 3
        assert delivery.problem is None
        assert delivery.queue == queue

    def test_bytes_that_are_no_message_are_received_with_their_problem(
        self, stage: Stage, queue: str
    ) -> None:
        if stage.backend.spoil is None:
            return
        stage.backend.spoil(queue)
        sent = stage.send(queue)
        spoilt, sound = stage.take(stage.consumer(queue), 2)
        assert spoilt.problem
        assert sound.problem is None
        assert sound.message.id == sent[0]
        stage.acknowledge(spoilt, sound)
        assert stage.drain(queue) == []

    def test_a_consumer_receives_from_all_its_queues(self, stage: Stage) -> None:
        queues = [stage.queue() for _ in range(3)]
        sent = [stage.send(queue)[0] for queue in queues]
        got = stage.take(stage.consumer(*queues), 3)
        assert sorted(ids(got)) == sorted(sent)
        assert {delivery.queue for delivery in got} == set(queues)

    def test_earlier_queues_are_not_preferred_so_none_starves(self, stage: Stage) -> None:
        queues = [stage.queue() for _ in range(3)]
        stage.publish(*(message(queue) for _ in range(60) for queue in queues))
        consumer = stage.consumer(*queues)
        got: list[Delivery] = []
        while len(got) < 90:
            batch = consumer.receive(2, timeout=PATIENCE)
            stage.acknowledge(*batch)
            got += batch
        shares = Counter(delivery.queue for delivery in got)
        assert min(shares[queue] for queue in queues) >= 10

    def test_a_queue_filled_again_and_again_does_not_starve_the_others(self, stage: Stage) -> None:
        busy, calm = stage.queue(), stage.queue()
        consumer = stage.consumer(busy, calm)
        stage.send(busy, 20)
        (waiting,) = stage.send(calm)
        for _ in range(60):
            batch = stage.take(consumer)
            if waiting in ids(batch):
                return
            stage.acknowledge(*batch)
            stage.send(busy)
        raise AssertionError("60 messages of the busy queue came before the one of the calm queue")

    def test_two_consumers_never_hold_the_same_message(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 200)
        handles = [stage.server, stage.open()]

        def work(number: int) -> list[str]:
            consumer = stage.consumer(queue, server=handles[number % 2])
            mine: list[str] = []
            while batch := consumer.receive(7, timeout=0.3):
                mine += ids(batch)
                handles[number % 2].committer.commit([Effects(each) for each in batch])
            return mine

        joins = [in_thread(work, number) for number in range(4)]
        taken = [task_id for join in joins for task_id in join()]
        assert sorted(taken) == sorted(sent)

    # --- wake

    def test_wake_makes_a_receive_that_waits_return(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        began = SYSTEM_CLOCK.monotonic()
        timer = threading.Timer(0.1, consumer.wake)
        timer.start()
        assert consumer.receive(10, timeout=2 * PATIENCE) == []
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE
        timer.join()

    def test_wake_before_makes_the_next_receive_not_wait(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        in_thread(consumer.wake)()
        began = SYSTEM_CLOCK.monotonic()
        assert consumer.receive(10, timeout=2 * PATIENCE) == []
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE

    def test_many_wakes_count_as_one(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        for _ in range(1000):
            consumer.wake()
        consumer.receive(10, timeout=PATIENCE)
        began = SYSTEM_CLOCK.monotonic()
        assert consumer.receive(10, timeout=0.2) == []
        assert SYSTEM_CLOCK.monotonic() - began > 0.1

    def test_wake_loses_no_message(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        sent: list[str] = []
        got: list[Delivery] = []
        for _ in range(20):
            consumer.wake()
            sent += stage.send(queue)
            got += consumer.receive(5, timeout=0.0)
        got += stage.take(consumer, len(sent) - len(got))
        assert ids(got) == sent

    # --- give_back

    def test_give_back_returns_messages_to_the_front_in_their_order(
        self, stage: Stage, queue: str
    ) -> None:
        sent = stage.send(queue, 5)
        consumer = stage.consumer(queue)
        consumer.give_back(stage.take(consumer, 3))
        assert ids(stage.take(consumer, 5)) == sent

    def test_give_back_is_not_counted_against_a_message(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        consumer = stage.consumer(queue)
        for _ in range(5):
            delivery = stage.one(consumer)
            assert (delivery.crashes, delivery.losses, delivery.suspect) == (0, 0, False)
            consumer.give_back([delivery])

    def test_give_back_of_one_keeps_the_others(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 2)
        consumer = stage.consumer(queue)
        first, second = stage.take(consumer, 2)
        consumer.give_back([second])
        assert stage.acknowledge(first).stale == ()
        assert ids(stage.drain(queue)) == sent[1:]

    def test_give_back_ends_the_hold(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        consumer = stage.consumer(queue)
        delivery = stage.one(consumer)
        consumer.give_back([delivery])
        assert stage.acknowledge(delivery).stale == (delivery,)
        assert len(stage.drain(queue)) == 1

    def test_give_back_wakes_another_consumer(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue)
        holder, waiter = stage.consumer(queue), stage.consumer(queue, server=stage.open())
        held = stage.one(holder)
        waiting = in_thread(lambda: stage.take(waiter))
        holder.give_back([held])
        # The holder may not take it again: it does not receive.
        assert ids(waiting()) == sent

    def test_give_back_of_nothing_is_allowed(self, stage: Stage, queue: str) -> None:
        stage.consumer(queue).give_back([])

    # --- close

    def test_close_gives_back_what_is_still_held(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 4)
        consumer = stage.consumer(queue)
        stage.take(consumer, 2)
        consumer.close()
        deliveries = stage.take(stage.consumer(queue), 4)
        assert ids(deliveries) == sent
        assert [(each.crashes, each.losses) for each in deliveries] == [(0, 0)] * 4

    def test_close_again_changes_nothing(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        consumer = stage.consumer(queue)
        stage.take(consumer)
        consumer.close()
        held = stage.one(stage.consumer(queue))
        consumer.close()
        assert stage.acknowledge(held).stale == ()

    def test_what_was_held_before_close_cannot_be_committed_after(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue)
        consumer = stage.consumer(queue)
        delivery = stage.one(consumer)
        consumer.close()
        assert stage.acknowledge(delivery).stale == (delivery,)
        assert len(stage.drain(queue)) == 1
