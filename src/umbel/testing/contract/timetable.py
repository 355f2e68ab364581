"""Schedules: the promises of ``Timetable``."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.exceptions import ConnectionLost
from umbel.ids import new_id
from umbel.servers.timetable import Progress, Tick, TickReport
from umbel.testing.contract.stage import LONG, Stage, Suite, ids, in_thread, message
from umbel.testing.flaky import AFTER, BEFORE, FlakyServer, script

FIRST = 1_800_000_000.25


class TimetableContract(Suite):
    # --- entries

    def test_an_entry_is_kept_changed_and_deleted(self, stage: Stage) -> None:
        table, timetable = new_id(), stage.timetable
        assert timetable.entries(table) == {}
        assert timetable.put(table, "a", '{"é": 1}', before=None)
        assert stage.open_timetable().entries(table) == {"a": '{"é": 1}'}
        assert timetable.put(table, "a", "two", before='{"é": 1}')
        assert timetable.put(table, "a", None, before="two")
        assert timetable.entries(table) == {}

    def test_who_does_not_know_what_is_kept_changes_nothing(self, stage: Stage) -> None:
        table, timetable = new_id(), stage.timetable
        assert not timetable.put(table, "a", "one", before="none")
        assert timetable.put(table, "a", "one", before=None)
        assert not timetable.put(table, "a", "two", before=None)
        assert not timetable.put(table, "a", None, before="")
        assert timetable.entries(table) == {"a": "one"}

    def test_the_revision_grows_with_each_change(self, stage: Stage) -> None:
        table, timetable = new_id(), stage.timetable
        seen = [timetable.revision(table)]
        for before, entry in ((None, "1"), ("1", "2"), ("2", None)):
            assert timetable.put(table, "a", entry, before=before)
            seen.append(stage.open_timetable().revision(table))
        assert seen == sorted(set(seen))
        timetable.put(table, "a", "1", before="no")
        assert timetable.revision(table) == seen[-1]

    def test_timetables_know_nothing_of_each_other(self, stage: Stage, queue: str) -> None:
        one, two, timetable = new_id(), new_id(), stage.timetable
        timetable.put(one, "a", "one", before=None)
        assert (timetable.entries(two), timetable.revision(two)) == ({}, 0)
        token = lead(stage, one)
        assert not timetable.advance(two, [tick(queue)], token=token).leads
        assert timetable.advance(one, [tick(queue)], token=token).leads
        assert timetable.progress(two) == {}

    # --- ticks

    def test_a_tick_is_sent_and_moves_its_entry(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        first = tick(queue, record="{}")
        assert stage.timetable.advance(table, [first], token=token) == TickReport()
        assert sent(stage, queue) == ids_of([first])
        assert stage.open_timetable().progress(table) == {"a": Progress(FIRST, "{}")}
        second = tick(queue, after=FIRST, due_at=FIRST + 1, record="two words")
        assert stage.timetable.advance(table, [second], token=token) == TickReport()
        assert stage.timetable.progress(table) == {"a": Progress(FIRST + 1, "two words")}

    def test_a_tick_is_sent_once(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        first = tick(queue)
        again = tick(queue)
        stage.timetable.advance(table, [first], token=token)
        assert stage.timetable.advance(table, [again], token=token).passed == (again,)
        late = tick(queue, after=FIRST - 1, due_at=FIRST)
        assert stage.timetable.advance(table, [late], token=token).passed == (late,)
        assert sent(stage, queue) == ids_of([first])

    def test_a_tick_without_a_message_only_moves(self, stage: Stage) -> None:
        table = new_id()
        token = lead(stage, table)
        stage.timetable.advance(table, [Tick("a", None, FIRST, "")], token=token)
        assert stage.timetable.progress(table) == {"a": Progress(FIRST, "")}

    def test_of_many_ticks_each_is_sent_once(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        ticks = [tick(queue, entry=f"entry {n}") for n in range(300)]
        assert stage.timetable.advance(table, ticks[:1], token=token) == TickReport()
        report = stage.timetable.advance(table, ticks, token=token)
        assert report.passed == tuple(ticks[:1])
        assert sent(stage, queue) == ids_of(ticks)
        assert len(stage.timetable.progress(table)) == 300
        assert list(stage.timetable.progress(table, ["entry 7", "none"])) == ["entry 7"]
        assert stage.timetable.progress(table, []) == {}

    def test_several_ticks_of_an_entry_follow_each_other(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        ticks = [
            tick(queue, after=None if n == 0 else FIRST + n - 1, due_at=FIRST + n) for n in range(5)
        ]
        assert stage.timetable.advance(table, ticks, token=token) == TickReport()
        assert sent(stage, queue) == ids_of(ticks)

    def test_who_wait_for_messages_are_woken(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        consumer = stage.consumer(queue, server=stage.open())
        waiting = in_thread(lambda: stage.take(consumer))
        first = tick(queue)
        stage.timetable.advance(table, [first], token=token)
        assert ids(waiting()) == ids_of([first])

    def test_what_cannot_be_stored_is_refused_and_stays(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        lost, good = tick("no-such-queue"), tick(queue, entry="b")
        report = stage.timetable.advance(table, [lost, good], token=token)
        assert [(each, bool(reason)) for each, reason in report.refused] == [(lost, True)]
        assert list(stage.timetable.progress(table)) == ["b"]
        assert sent(stage, queue) == ids_of([good])

    def test_a_deleted_entry_begins_anew(self, stage: Stage, queue: str) -> None:
        table, timetable = new_id(), stage.timetable
        token = lead(stage, table)
        timetable.put(table, "a", "one", before=None)
        timetable.advance(table, [tick(queue)], token=token)
        timetable.put(table, "a", None, before="one")
        assert timetable.progress(table) == {}

    # --- the fence

    def test_who_lost_the_lead_moves_nothing(self, stage: Stage, queue: str) -> None:
        table = new_id()
        old = lead(stage, table, "first", lease=stage.short)
        stage.lapse(stage.short * 1.1)
        new = lead(stage, table, "second")
        assert stage.timetable.advance(table, [tick(queue)], token=old) == TickReport(leads=False)
        assert stage.timetable.progress(table) == {}
        first = tick(queue)
        assert stage.open_timetable().advance(table, [first], token=new) == TickReport()
        assert sent(stage, queue) == ids_of([first])

    def test_the_leader_is_known_while_the_lease_lasts(self, stage: Stage) -> None:
        table = new_id()
        assert stage.timetable.leader(table) is None
        lead(stage, table, "first", lease=stage.short)
        assert stage.open_timetable().leader(table) == "first"
        stage.lapse(stage.short * 1.1)
        assert stage.timetable.leader(table) is None
        lead(stage, table, "second")
        stage.ledger.release(table, "second")
        assert stage.timetable.leader(table) is None

    def test_without_a_lease_nobody_leads(self, stage: Stage, queue: str) -> None:
        assert not stage.timetable.advance(new_id(), [tick(queue)], token=1).leads

    def test_of_many_who_try_at_once_one_sends(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        tables = [stage.open_timetable() for _ in range(4)]
        ticks = [tick(queue, entry=str(n)) for n in range(50)]
        joins = [in_thread(each.advance, table, ticks, token=token) for each in tables]
        reports = [join() for join in joins]
        got = sent(stage, queue)
        assert set(got) == set(ids_of(ticks))
        if stage.atomic:
            assert sum(len(report.passed) for report in reports) == 150
            assert got == ids_of(ticks)

    def test_an_answer_that_was_lost_is_asked_for_again(self, stage: Stage, queue: str) -> None:
        table = new_id()
        token = lead(stage, table)
        flaky = FlakyServer(stage.open(), script(advance=[AFTER, BEFORE]))
        first = tick(queue)
        for _ in range(3):
            try:
                assert flaky.timetable is not None
                flaky.timetable.advance(table, [first], token=token)
            except ConnectionLost:
                continue
        assert sent(stage, queue) == ids_of([first])


def lead(stage: Stage, table: str, holder: str = "me", *, lease: float = LONG) -> int:
    token = stage.ledger.acquire(table, holder, lease=lease)
    assert token is not None
    return token


def tick(
    queue: str,
    *,
    entry: str = "a",
    after: float | None = None,
    due_at: float = FIRST,
    record: str = "",
) -> Tick:
    return Tick(entry, after, due_at, record, message(queue))


def sent(stage: Stage, queue: str) -> list[str]:
    """Return the ids of the messages that are there."""
    return sorted(ids(stage.drain(queue)))


def ids_of(ticks: Sequence[Tick]) -> list[str]:
    return sorted(tick.message.id for tick in ticks if tick.message is not None)
