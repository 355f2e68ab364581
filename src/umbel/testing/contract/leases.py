"""Leases, death and recovery: the promises of ``Transport.renew`` and ``Transport.recover``.

``DeathContract`` is about consumers that are known to be dead; it holds, too, where a hold is not a
lease but a connection.
"""

from __future__ import annotations

from contextlib import suppress

from umbel.exceptions import ConnectionLost
from umbel.servers.seams import DeadConsumer
from umbel.testing.contract.stage import LONG, Stage, Suite, ids, in_thread


class LeaseContract(Suite):
    # --- leases

    def test_a_lease_that_ended_gives_messages_back_with_a_loss_counted(
        self, stage: Stage, queue: str
    ) -> None:
        sent = stage.send(queue, 3)
        stage.take(stage.consumer(queue, lease=stage.short), 2)
        stage.lapse(stage.short * 1.1)
        assert stage.open().transport.recover() == 2
        got = stage.take(stage.consumer(queue), 3)
        assert ids(got) == sent
        assert [(each.losses, each.crashes) for each in got] == [(1, 0), (1, 0), (0, 0)]
        assert [each.redelivered for each in got] == [True, True, False]

    def test_losses_add_up(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        for losses in range(3):
            delivery = stage.one(stage.consumer(queue, lease=stage.short))
            assert delivery.losses == losses
            stage.lapse(stage.short * 1.1)
            assert stage.transport.recover() == 1

    def test_a_lease_that_holds_is_left_alone_by_recover(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        held = stage.one(stage.consumer(queue))
        assert stage.open().transport.recover() == 0
        stage.nothing(stage.consumer(queue))
        assert stage.acknowledge(held).stale == ()

    def test_renew_extends_a_lease_from_now(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        consumer_id, consumer = stage.session(queue, lease=stage.short)
        held = stage.one(consumer)
        for _ in range(4):
            stage.lapse(stage.short * 0.5)
            assert list(stage.open().transport.renew([consumer_id], lease=stage.short)) == []
        assert stage.transport.recover() == 0
        assert stage.acknowledge(held).stale == ()

    def test_renew_returns_the_consumers_that_are_lost(self, stage: Stage, queue: str) -> None:
        lost, _ = stage.session(queue, lease=stage.short)
        alive, _ = stage.session(queue)
        stage.lapse(stage.short * 1.1)
        stage.transport.recover()
        returned = stage.transport.renew([lost, alive, "never-seen"], lease=LONG)
        assert sorted(returned) == sorted([lost, "never-seen"])

    def test_renew_of_a_closed_consumer_returns_it(self, stage: Stage, queue: str) -> None:
        consumer_id, consumer = stage.session(queue)
        consumer.close()
        assert list(stage.transport.renew([consumer_id], lease=LONG)) == [consumer_id]

    def test_renew_of_nothing_is_allowed(self, stage: Stage) -> None:
        assert list(stage.transport.renew([], lease=LONG)) == []

    def test_anyone_may_recover_at_any_time_and_again(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        stage.take(stage.consumer(queue, lease=stage.short))
        stage.lapse(stage.short * 1.1)
        handles = [stage.open() for _ in range(3)]
        assert sum(handle.transport.recover() for handle in handles) == 1
        assert len(stage.drain(queue)) == 1

    def test_recover_by_many_at_once_gives_back_each_message_once(
        self, stage: Stage, queue: str
    ) -> None:
        sent = stage.send(queue, 20)
        for _ in range(4):
            stage.take(stage.consumer(queue, lease=stage.short), 5)
        stage.lapse(stage.short * 1.1)
        handles = [stage.open().transport for _ in range(4)]
        joins = [in_thread(handle.recover) for handle in handles]
        assert sum(join() for join in joins) == 20
        got = stage.drain(queue)
        assert sorted(ids(got)) == sorted(sent)
        assert {each.losses for each in got} == {1}

    def test_what_a_lapsed_consumer_held_cannot_be_committed(
        self, stage: Stage, queue: str
    ) -> None:
        sent = stage.send(queue)
        held = stage.one(stage.consumer(queue, lease=stage.short))
        stage.lapse(stage.short * 1.1)
        stage.transport.recover()
        assert stage.acknowledge(held).stale == (held,)
        assert ids(stage.drain(queue)) == sent


class DeathContract(Suite):
    def test_one_running_message_is_charged_with_the_crash(self, stage: Stage, queue: str) -> None:
        innocent, guilty, innocent_too = stage.send(queue, 3)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer, 3)
        dead = DeadConsumer(consumer_id, running=(guilty,))
        assert stage.open().transport.recover([dead]) == 3
        got = {each.message.id: each for each in stage.take(stage.consumer(queue), 3)}
        assert {task_id: each.crashes for task_id, each in got.items()} == {
            innocent: 0,
            guilty: 1,
            innocent_too: 0,
        }
        assert all(each.losses == 0 and not each.suspect for each in got.values())
        assert got[guilty].redelivered

    def test_crashes_add_up(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        for crashes in range(4):
            consumer_id, consumer = stage.session(queue)
            assert stage.one(consumer).crashes == crashes
            stage.transport.recover([DeadConsumer(consumer_id, (task_id,))])

    def test_several_running_messages_become_suspects_uncounted(
        self, stage: Stage, queue: str
    ) -> None:
        first, second, waiting = stage.send(queue, 3)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer, 3)
        stage.transport.recover([DeadConsumer(consumer_id, (first, second))])
        got = {each.message.id: each for each in stage.take(stage.consumer(queue), 3)}
        assert [got[task_id].suspect for task_id in (first, second, waiting)] == [True, True, False]
        assert [each.crashes for each in got.values()] == [0, 0, 0]

    def test_a_suspect_that_crashes_alone_is_charged(self, stage: Stage, queue: str) -> None:
        first, second = stage.send(queue, 2)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer, 2)
        stage.transport.recover([DeadConsumer(consumer_id, (first, second))])
        consumer_id, consumer = stage.session(queue)
        suspect = stage.one(consumer).message.id
        stage.transport.recover([DeadConsumer(consumer_id, (suspect,))])
        got = {each.message.id: each.crashes for each in stage.take(stage.consumer(queue), 2)}
        assert got == {first: int(suspect == first), second: int(suspect == second)}

    def test_a_verdict_travels_with_what_was_running_and_no_crash_is_charged(
        self, stage: Stage, queue: str
    ) -> None:
        judged, free = stage.send(queue, 2)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer, 2)
        dead = DeadConsumer(consumer_id, (judged,), verdict="time-limit 5.0")
        assert stage.transport.recover([dead]) == 2
        got = {each.message.id: each for each in stage.take(stage.consumer(queue), 2)}
        assert (got[judged].verdict, got[judged].crashes) == ("time-limit 5.0", 0)
        assert (got[free].verdict, got[free].crashes) == ("", 0)

    def test_a_verdict_is_kept_until_the_message_ends(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        stage.transport.recover([DeadConsumer(consumer_id, (task_id,), verdict="terminated")])
        consumer = stage.consumer(queue)
        for _ in range(2):
            delivery = stage.one(consumer)
            assert delivery.verdict == "terminated"
            consumer.give_back([delivery])
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        stage.transport.recover([DeadConsumer(consumer_id, (task_id,))])
        assert stage.one(stage.consumer(queue)).verdict == "terminated"

    def test_what_a_dead_consumer_had_not_begun_goes_back_free_and_first(
        self, stage: Stage, queue: str
    ) -> None:
        held = stage.send(queue, 3)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer, 3)
        later = stage.send(queue, 2)
        assert stage.transport.recover([DeadConsumer(consumer_id)]) == 3
        got = stage.take(stage.consumer(queue), 5)
        assert ids(got) == [*held, *later]
        assert all((each.crashes, each.losses, each.suspect) == (0, 0, False) for each in got)

    def test_each_of_several_dead_consumers_is_judged_alone(self, stage: Stage, queue: str) -> None:
        one, two = stage.send(queue, 2)
        dead = []
        for task_id in (one, two):
            consumer_id, consumer = stage.session(queue)
            assert stage.one(consumer).message.id == task_id
            dead.append(DeadConsumer(consumer_id, (task_id,)))
        assert stage.transport.recover(dead) == 2
        got = stage.take(stage.consumer(queue), 2)
        assert [(each.crashes, each.suspect) for each in got] == [(1, False), (1, False)]

    def test_recover_of_an_unknown_or_empty_consumer_gives_nothing_back(
        self, stage: Stage, queue: str
    ) -> None:
        consumer_id, _ = stage.session(queue)
        dead = [DeadConsumer(consumer_id, ("x",)), DeadConsumer("never-seen", ("y",))]
        assert stage.transport.recover(dead) == 0

    def test_a_death_reported_twice_is_charged_once(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        dead = DeadConsumer(consumer_id, (task_id,))
        assert stage.transport.recover([dead]) == 1
        assert stage.open().transport.recover([dead]) == 0
        assert stage.one(stage.consumer(queue)).crashes == 1

    def test_recover_wakes_a_consumer_that_waits(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        waiter = stage.consumer(queue, server=stage.open())
        waiting = in_thread(lambda: stage.take(waiter))
        stage.transport.recover([DeadConsumer(consumer_id)])
        assert ids(waiting()) == sent

    # --- the fence

    def test_what_a_dead_consumer_held_cannot_be_committed(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        held = stage.one(consumer)
        stage.transport.recover([DeadConsumer(consumer_id)])
        assert stage.acknowledge(held).stale == (held,)
        assert ids(stage.drain(queue)) == sent

    def test_a_zombie_cannot_end_the_hold_of_the_next_consumer(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue)
        consumer_id, zombie = stage.session(queue)
        old = stage.one(zombie)
        stage.transport.recover([DeadConsumer(consumer_id)])
        new = stage.one(stage.consumer(queue))
        assert stage.acknowledge(old).stale == (old,)
        with suppress(ConnectionLost):
            zombie.give_back([old])
        zombie.close()
        stage.nothing(stage.consumer(queue))
        assert stage.acknowledge(new).stale == ()

    def test_a_fenced_consumer_holds_nothing_without_a_lease(
        self, stage: Stage, queue: str
    ) -> None:
        consumer_id, consumer = stage.session(queue)
        stage.transport.recover([DeadConsumer(consumer_id)])
        stage.send(queue)
        got: list[str] = []
        with suppress(ConnectionLost):
            got = ids(consumer.receive(10, timeout=stage.backend.quiet))
        if got:  # then it must be a session like any other
            assert list(stage.transport.renew([consumer_id], lease=LONG)) == []
        else:
            assert len(stage.drain(queue)) == 1
