"""Chords' headers: the promises of ``Joins``, and of a commit that has to do with them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from umbel.ids import new_id
from umbel.message import Arrival, Effects, Ending, Join
from umbel.servers.seams import DeadConsumer
from umbel.testing.contract.stage import Stage, Suite, ids, message


class JoinContract(Suite):
    def test_it_is_complete_when_all_have_arrived(self, stage: Stage) -> None:
        join_id = opened(stage, 3)
        assert arrive(stage, join_id, 2) == ()
        assert arrive(stage, join_id, 0) == ()
        assert stage.joins.joined([join_id]) == {}
        assert arrive(stage, join_id, 1) == (join_id,)
        joined = stage.joins.joined([join_id, new_id()])
        assert list(joined) == [join_id]
        assert list(joined[join_id].parts) == [b"part 0", b"part 1", b"part 2"]
        assert joined[join_id].context == b"arrival"

    def test_a_member_counts_once(self, stage: Stage) -> None:
        join_id = opened(stage, 2)
        for _ in range(3):
            assert arrive(stage, join_id, 0) == ()
        assert arrive(stage, join_id, 1) == (join_id,)
        assert arrive(stage, join_id, 1) == ()
        assert len(stage.joins.joined([join_id])[join_id].parts) == 2

    def test_members_of_one_commit_count_together(self, stage: Stage) -> None:
        one, two = opened(stage, 2), opened(stage, 1)
        arrivals = [arrival(one, 0), arrival(two, 0), arrival(one, 1), arrival(one, 1)]
        report = stage.commit(*(Effects(None, arrivals=(each,)) for each in arrivals))
        assert sorted(report.joined) == sorted((one, two))

    def test_many_members_of_one_commit(self, stage: Stage) -> None:
        join_id = opened(stage, 300)
        report = stage.commit(
            *(Effects(None, arrivals=(arrival(join_id, number),)) for number in range(300))
        )
        assert report.joined == (join_id,)
        parts = stage.joins.joined([join_id])[join_id].parts
        assert list(parts) == [b"part %d" % number for number in range(300)]

    def test_members_may_arrive_before_it_is_opened(self, stage: Stage) -> None:
        join_id = new_id()
        assert arrive(stage, join_id, 0) == ()
        stage.joins.open([Join(join_id, 2, b"opened")])
        assert arrive(stage, join_id, 1) == (join_id,)

    def test_what_was_complete_before_it_was_opened_is_found(self, stage: Stage) -> None:
        join_id = new_id()
        arrive(stage, join_id, 0)
        stage.joins.open([Join(join_id, 1, b"opened")])
        assert join_id in stage.joins.unclosed(older_than=0.0, limit=1000)
        assert list(stage.joins.joined([join_id])) == [join_id]

    def test_opening_again_changes_nothing(self, stage: Stage) -> None:
        join_id = opened(stage, 2)
        stage.joins.open([Join(join_id, 1, b"again")])
        assert arrive(stage, join_id, 0) == ()
        assert arrive(stage, join_id, 1) == (join_id,)
        stage.joins.open([Join(join_id, 2, b"again")])
        assert arrive(stage, join_id, 2) == ()

    def test_it_may_be_opened_by_effects(self, stage: Stage) -> None:
        join_id = new_id()
        stage.commit(Effects(None, opens=(Join(join_id, 1, b"opened"),)))
        assert arrive(stage, join_id, 0) == (join_id,)

    def test_it_may_be_enlarged(self, stage: Stage) -> None:
        join_id = opened(stage, 1)
        stage.joins.enlarge(join_id, 1)
        assert arrive(stage, join_id, 0) == ()
        assert arrive(stage, join_id, 1) == (join_id,)

    def test_who_has_no_index_comes_last(self, stage: Stage) -> None:
        join_id = opened(stage, 2)
        arrive(stage, join_id, None)
        arrive(stage, join_id, 7)
        parts = stage.joins.joined([join_id])[join_id].parts
        assert list(parts) == [b"part 7", b"part None"]

    def test_an_arrival_that_knows_no_body_counts_where_the_join_is_known(
        self, stage: Stage
    ) -> None:
        join_id, nobodys = opened(stage, 2), new_id()
        for each in (join_id, nobodys):
            unknown = Arrival(each, "member 0", 0, b"part 0", b"")
            assert stage.commit(Effects(None, arrivals=(unknown,))).joined == ()
        assert arrive(stage, join_id, 1) == (join_id,)
        assert len(stage.joins.joined([join_id])[join_id].parts) == 2
        stage.joins.open([Join(nobodys, 1, b"opened")])
        assert stage.joins.joined([nobodys]) == {}
        last = opened(stage, 1)
        report = stage.commit(Effects(None, arrivals=(Arrival(last, "m", 0, b"part", b""),)))
        assert report.joined == (last,)
        assert stage.joins.joined([last])[last].context == b"opened"

    def test_what_a_stale_delivery_brings_does_not_arrive(self, stage: Stage, queue: str) -> None:
        join_id = opened(stage, 1)
        stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        held = stage.one(consumer)
        stage.transport.recover([DeadConsumer(consumer_id)])
        report = stage.commit(
            Effects(held, arrivals=(arrival(join_id, 0),), opens=(Join(new_id(), 1, b""),))
        )
        assert (report.stale, report.joined) == ((held,), ())
        assert stage.joins.joined([join_id]) == {}

    def test_a_refused_effect_brings_nothing(self, stage: Stage, queue: str) -> None:
        join_id = opened(stage, 1)
        stage.send(queue)
        held = stage.one(stage.consumer(queue))
        lost = message("nowhere", exchange=f"none-{new_id()}")
        report = stage.commit(Effects(held, publish=(lost,), arrivals=(arrival(join_id, 0),)))
        assert (len(report.refused), report.joined) == (1, ())
        assert stage.joins.joined([join_id]) == {}
        stage.commit(Effects(held, Ending.ACK))

    # --- closing

    def test_the_effects_that_close_it_take_place_once(self, stage: Stage, queue: str) -> None:
        join_id = complete(stage)
        body, record = message(queue), stage.record(new_id(), b"meta")
        for _ in range(2):
            report = stage.commit(Effects(None, publish=(body,), results=(record,), closes=join_id))
            assert (report.stale, report.refused) == ((), ())
        assert stage.joins.joined([join_id]) == {}
        assert stage.results(record.task_id) == {record.task_id: b"meta"}
        if stage.atomic:
            assert ids(stage.drain(queue)) == [body.id]

    def test_of_two_that_close_it_in_one_commit_one_does(self, stage: Stage, queue: str) -> None:
        join_id = complete(stage)
        bodies = [message(queue), message(queue)]
        stage.commit(*(Effects(None, publish=(each,), closes=join_id) for each in bodies))
        if stage.atomic:
            assert ids(stage.drain(queue)) == [bodies[0].id]

    def test_of_many_that_close_it_at_once_one_does(self, stage: Stage, queue: str) -> None:
        join_id = complete(stage)
        bodies = [message(queue) for _ in range(4)]
        servers = [stage.open() for _ in bodies]
        threads = [
            threading.Thread(
                target=server.committer.commit,
                args=([Effects(None, publish=(body,), closes=join_id)],),
            )
            for server, body in zip(servers, bodies, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if stage.atomic:
            assert len(stage.drain(queue)) == 1

    def test_what_is_not_complete_is_not_closed(self, stage: Stage, queue: str) -> None:
        join_id = opened(stage, 2)
        arrive(stage, join_id, 0)
        for each in (join_id, new_id()):
            stage.commit(Effects(None, publish=(message(queue),), closes=each))
        if stage.atomic:
            assert stage.drain(queue) == []
        assert arrive(stage, join_id, 1) == (join_id,)

    def test_a_body_that_cannot_be_stored_leaves_it_open(self, stage: Stage, queue: str) -> None:
        join_id = complete(stage)
        lost = message("nowhere", exchange=f"none-{new_id()}")
        report = stage.commit(Effects(None, publish=(lost,), closes=join_id))
        assert [each.effects.closes for each in report.refused] == [join_id]
        assert list(stage.joins.joined([join_id])) == [join_id]
        stage.commit(Effects(None, publish=(message(queue),), closes=join_id))
        assert len(stage.drain(queue)) == 1

    def test_who_arrives_when_it_is_closed_changes_nothing(self, stage: Stage) -> None:
        join_id = complete(stage)
        stage.commit(Effects(None, closes=join_id))
        assert arrive(stage, join_id, 0) == ()
        assert arrive(stage, join_id, 5) == ()
        stage.joins.open([Join(join_id, 1, b"again")])
        assert stage.joins.joined([join_id]) == {}

    def test_one_join_may_arrive_at_another_as_it_is_closed(self, stage: Stage) -> None:
        outer, inner = opened(stage, 1), complete(stage)
        report = stage.commit(Effects(None, closes=inner, arrivals=(arrival(outer, 0),)))
        assert report.joined == (outer,)

    def test_those_that_nobody_closed_are_found_by_age(self, stage: Stage) -> None:
        young, waiting, closed = complete(stage), opened(stage, 1), complete(stage)
        stage.commit(Effects(None, closes=closed))
        found = stage.joins.unclosed(older_than=0.0, limit=1000)
        assert young in found
        assert not {waiting, closed} & set(found)
        assert young not in stage.joins.unclosed(older_than=1000.0, limit=1000)
        stage.lapse(2 * stage.short)
        assert young in stage.joins.unclosed(older_than=stage.short, limit=1000)


def opened(stage: Stage, size: int) -> str:
    join_id = new_id()
    stage.joins.open([Join(join_id, size, b"opened")])
    return join_id


def complete(stage: Stage) -> str:
    join_id = opened(stage, 1)
    assert arrive(stage, join_id, 0) == (join_id,)
    return join_id


def arrival(join_id: str, index: int | None) -> Arrival:
    part = f"part {index}".encode()
    return Arrival(join_id, f"member {index}", index, part, b"arrival")


def arrive(stage: Stage, join_id: str, index: int | None) -> Sequence[str]:
    return stage.commit(Effects(None, arrivals=(arrival(join_id, index),))).joined
