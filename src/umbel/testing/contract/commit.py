"""Effects: the promises of ``Committer``."""

from __future__ import annotations

from umbel.exceptions import Unroutable
from umbel.message import Effects, Ending
from umbel.servers.seams import DeadConsumer
from umbel.states import FAILURE, STARTED
from umbel.testing.contract.stage import Stage, Suite, ids, in_thread, message


class CommitContract(Suite):
    # --- endings

    def test_ack_ends_the_delivery_for_ever(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        assert stage.acknowledge(stage.one(consumer)).stale == ()
        assert stage.transport.recover([DeadConsumer(consumer_id)]) == 0
        assert stage.drain(queue) == []

    def test_all_effects_of_one_delivery_take_place(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        follow_up = message(queue)
        consumer = stage.consumer(queue)
        record = stage.record(task_id, b"meta")
        effects = Effects(stage.one(consumer), results=(record,), publish=(follow_up,))
        assert stage.commit(effects).stale == ()
        consumer.close()  # a server that pushes may have handed it the follow-up
        assert stage.results(task_id) == {task_id: b"meta"}
        assert ids(stage.drain(queue)) == [follow_up.id]

    def test_many_effects_are_performed_in_one_call(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 50)
        after = stage.queue()
        held = stage.take(stage.consumer(queue), 50)
        follow_ups = {each.message.id: message(after) for each in held}
        report = stage.commit(
            *(
                Effects(
                    each,
                    results=(stage.record(each.message.id, each.message.id.encode()),),
                    publish=(follow_ups[each.message.id],),
                )
                for each in held
            )
        )
        assert report.stale == ()
        assert stage.results(*sent) == {task_id: task_id.encode() for task_id in sent}
        assert ids(stage.drain(after)) == [follow_ups[task_id].id for task_id in sent]
        assert stage.drain(queue) == []

    def test_commit_of_nothing_is_allowed(self, stage: Stage) -> None:
        assert stage.commit().stale == ()

    def test_keep_leaves_the_delivery_held(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        held = stage.one(stage.consumer(queue))
        progress = stage.record(task_id, b"half", "PROGRESS")
        assert stage.commit(Effects(held, Ending.KEEP, results=(progress,))).stale == ()
        assert stage.results(task_id) == {task_id: b"half"}
        stage.nothing(stage.consumer(queue))
        assert stage.acknowledge(held).stale == ()

    def test_keep_then_ack_in_one_batch(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        held = stage.one(stage.consumer(queue))
        started = stage.record(task_id, b"started", STARTED)
        done = stage.record(task_id, b"done")
        report = stage.commit(
            Effects(held, Ending.KEEP, results=(started,)), Effects(held, results=(done,))
        )
        assert report.stale == ()
        assert stage.results(task_id) == {task_id: b"done"}
        assert stage.drain(queue) == []

    def test_requeue_puts_the_message_behind_the_others_uncounted(
        self, stage: Stage, queue: str
    ) -> None:
        first, second, third = stage.send(queue, 3)
        consumer = stage.consumer(queue)
        held = stage.one(consumer)
        assert stage.commit(Effects(held, Ending.REQUEUE)).stale == ()
        got = stage.take(consumer, 3)
        assert ids(got) == [second, third, first]
        assert [(each.crashes, each.losses) for each in got] == [(0, 0)] * 3

    def test_dead_takes_the_message_out_of_its_queue(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        stage.bury(stage.one(stage.consumer(queue)))
        assert stage.drain(queue) == []

    def test_dead_stores_the_result_too(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        held = stage.one(stage.consumer(queue))
        failure = stage.record(task_id, b"failed", FAILURE)
        stage.commit(Effects(held, Ending.DEAD, "crashed too often", results=(failure,)))
        assert stage.results(task_id) == {task_id: b"failed"}

    def test_effects_without_a_delivery_have_no_fence(self, stage: Stage, queue: str) -> None:
        follow_up = message(queue)
        record = stage.record(follow_up.id, b"early")
        assert stage.commit(Effects(None, results=(record,), publish=(follow_up,))).stale == ()
        assert ids(stage.drain(queue)) == [follow_up.id]
        assert stage.results(follow_up.id) == {follow_up.id: b"early"}

    def test_follow_ups_may_be_delayed_and_routed(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        held = stage.one(stage.consumer(queue))
        other = stage.queue()
        later = message(other, not_before=stage.clock.now() + stage.short + 1.0)
        stage.commit(Effects(held, publish=(later,)))
        stage.nothing(stage.consumer(other))
        stage.lapse(stage.short + 1.0)
        assert ids(stage.take(stage.consumer(other))) == [later.id]

    def test_a_follow_up_wakes_a_consumer_that_waits(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        held = stage.one(stage.consumer(queue))
        other = stage.queue()
        waiter = stage.consumer(other, server=stage.open())
        waiting = in_thread(lambda: stage.take(waiter))
        follow_up = message(other)
        stage.commit(Effects(held, publish=(follow_up,)))
        assert ids(waiting()) == [follow_up.id]

    # --- the fence

    def test_a_stale_effect_does_nothing_at_all(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        other = stage.queue()
        consumer_id, consumer = stage.session(queue)
        held = stage.one(consumer)
        stage.transport.recover([DeadConsumer(consumer_id)])
        zombie = Effects(held, results=(stage.record(task_id),), publish=(message(other),))
        assert stage.commit(zombie).stale == (held,)
        assert stage.results(task_id) == {}
        assert stage.drain(other) == []
        assert len(stage.drain(queue)) == 1

    def test_stale_deliveries_are_reported_as_they_were_given(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue, 3)
        consumer = stage.consumer(queue)
        held = stage.take(consumer, 3)
        consumer.give_back(held[1:])
        stale = stage.acknowledge(*held).stale
        assert [id(each) for each in stale] == [id(each) for each in held[1:]]

    def test_every_ending_is_fenced(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, len(Ending))
        consumer_id, consumer = stage.session(queue)
        held = stage.take(consumer, len(Ending))
        stage.transport.recover([DeadConsumer(consumer_id)])
        batch = [
            Effects(each, ending, results=(stage.record(each.message.id),))
            for each, ending in zip(held, Ending, strict=True)
        ]
        assert stage.commit(*batch).stale == tuple(held)
        assert stage.results(*sent) == {}
        assert sorted(ids(stage.drain(queue))) == sorted(sent)

    def test_a_batch_of_fresh_and_stale_effects_performs_the_fresh(
        self, stage: Stage, queue: str
    ) -> None:
        stage.send(queue, 6)
        other = stage.queue()
        dead_id, dead = stage.session(queue)
        stale = stage.take(dead, 3)
        fresh = stage.take(stage.consumer(queue), 3)
        stage.transport.recover([DeadConsumer(dead_id)])
        mixed = [each for pair in zip(stale, fresh, strict=True) for each in pair]
        follow_ups = {each.message.id: message(other) for each in mixed}
        report = stage.commit(
            *(
                Effects(
                    each,
                    results=(stage.record(each.message.id),),
                    publish=(follow_ups[each.message.id],),
                )
                for each in mixed
            )
        )
        assert report.stale == tuple(stale)
        assert set(stage.results(*(each.message.id for each in mixed))) == set(ids(fresh))
        assert ids(stage.drain(other)) == [follow_ups[task_id].id for task_id in ids(fresh)]

    def test_a_delivery_that_was_committed_is_stale(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        held = stage.one(stage.consumer(queue))
        stage.acknowledge(held)
        again = Effects(held, results=(stage.record(task_id),), publish=(message(queue),))
        assert stage.commit(again).stale == (held,)
        assert stage.results(task_id) == {}
        assert stage.drain(queue) == []

    # --- the unroutable and the ambiguous

    def test_an_unroutable_follow_up_refuses_its_effect_and_no_other(
        self, stage: Stage, queue: str
    ) -> None:
        bad_id, good_id = stage.send(queue, 2)
        other = stage.queue()
        held, good = stage.take(stage.consumer(queue), 2)
        sibling, lost, fine = message(other), message("no-such-queue"), message(other)
        bad = Effects(held, results=(stage.record(bad_id),), publish=(sibling, lost))
        report = stage.commit(bad, Effects(good, results=(stage.record(good_id),), publish=(fine,)))
        assert report.stale == ()
        ((refused, error),) = [(each.effects, each.error) for each in report.refused]
        assert refused is bad
        assert isinstance(error, Unroutable)
        ((lost_id, reason),) = error.refused
        assert lost_id == lost.id
        assert "no-such-queue" in reason
        assert set(stage.results(bad_id, good_id)) == {good_id}
        # In an ordered commit the sibling was confirmed by the broker before its brother failed.
        allowed = [[fine.id]] if stage.atomic else [[fine.id], [sibling.id, fine.id]]
        assert ids(stage.drain(other)) in allowed

    def test_a_refused_delivery_is_still_held_and_can_be_ended_otherwise(
        self, stage: Stage, queue: str
    ) -> None:
        (task_id,) = stage.send(queue)
        held = stage.one(stage.consumer(queue))
        assert stage.commit(Effects(held, publish=(message("no-such-queue"),))).refused
        failure = stage.record(task_id, b"failed", FAILURE)
        report = stage.commit(Effects(held, Ending.DEAD, "not sent", results=(failure,)))
        assert (report.stale, report.refused) == ((), ())
        assert stage.results(task_id) == {task_id: b"failed"}
        assert stage.drain(queue) == []

    def test_what_is_stale_is_not_refused(self, stage: Stage, queue: str) -> None:
        stage.send(queue)
        held = stage.one(stage.consumer(queue))
        stage.acknowledge(held)
        report = stage.commit(Effects(held, publish=(message("no-such-queue"),)))
        assert (report.stale, report.refused) == ((held,), ())

    def test_effects_without_a_delivery_are_refused_as_well(self, stage: Stage) -> None:
        lost = message("no-such-queue")
        effects = Effects(None, results=(stage.record(lost.id),), publish=(lost,))
        assert [each.effects for each in stage.commit(effects).refused] == [effects]
        assert stage.results(lost.id) == {}

    def test_a_commit_repeated_after_a_lost_answer_is_harmless(
        self, stage: Stage, queue: str
    ) -> None:
        sent = stage.send(queue, 3)
        other = stage.queue()
        held = stage.take(stage.consumer(queue), 3)
        batch = [
            Effects(
                each,
                results=(stage.record(each.message.id, b"done"),),
                publish=(message(other, id=f"after-{each.message.id}"),),
            )
            for each in held
        ]
        stage.commit(*batch)
        stage.commit(*batch)
        assert stage.results(*sent) == dict.fromkeys(sent, b"done")
        assert ids(stage.drain(other)) == [f"after-{task_id}" for task_id in sent]
        assert stage.drain(queue) == []
