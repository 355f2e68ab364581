"""Results: the promises of ``ResultStore`` and ``Watch``.

One handle is the caller, who made the ids and waits; another is the worker, who stores. A result
names the caller's ``reply_to``, so that stores which send results instead of keeping them pass too.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Mapping
from typing import Any

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.message import ResultRecord
from umbel.servers.seams import ResultStore, Watch
from umbel.states import FAILURE, STARTED, SUCCESS
from umbel.testing.contract.stage import PATIENCE, Stage, Suite, in_thread


class SavedGroupContract(Suite):
    """For stores that keep results."""

    def test_a_group_is_saved_replaced_and_forgotten(self, stage: Stage) -> None:
        store, group_id = stage.server.results, new_id()
        assert store.saved_group(group_id) is None
        for data in (b"one", b"two"):
            store.save_group(group_id, data, expires_in=None)
            assert stage.open().results.saved_group(group_id) == data
        store.forget_group(group_id)
        assert store.saved_group(group_id) is None

    def test_a_saved_group_is_no_result(self, stage: Stage) -> None:
        both = new_id()
        stage.server.results.save_group(both, b"group", expires_in=60)
        assert stage.results(both) == {}
        put(stage, stage.record(both, b"result"))
        stage.server.results.forget([both])
        assert stage.server.results.saved_group(both) == b"group"

    def test_a_saved_group_expires(self, stage: Stage) -> None:
        group_id = new_id()
        stage.server.results.save_group(group_id, b"group", expires_in=stage.short)
        stage.lapse(stage.short * 1.2)
        assert stage.server.results.saved_group(group_id) is None


class ResultContract(Suite):
    # --- put and get

    def test_put_stores_all_and_get_returns_those_that_exist(self, stage: Stage) -> None:
        first, second, never = new_id(), new_id(), new_id()
        put(stage, stage.record(first, b"1"), stage.record(second, b"\0\xff"))
        assert stage.results(first, never, second) == {first: b"1", second: b"\0\xff"}

    def test_put_and_get_of_many(self, stage: Stage) -> None:
        metas = {new_id(): str(number).encode() for number in range(500)}
        put(stage, *(stage.record(task_id, meta) for task_id, meta in metas.items()))
        assert stage.results(*metas) == metas

    def test_put_and_get_of_nothing_are_allowed(self, stage: Stage) -> None:
        put(stage)
        assert stage.results() == {}

    def test_put_replaces_what_is_not_final(self, stage: Stage) -> None:
        task_id = new_id()
        for meta, state in [(b"a", STARTED), (b"b", "PROGRESS"), (b"c", FAILURE), (b"d", SUCCESS)]:
            put(stage, stage.record(task_id, meta, state))
            assert stage.results(task_id) == {task_id: meta}

    def test_a_stored_success_is_never_replaced(self, stage: Stage) -> None:
        task_id = new_id()
        put(stage, stage.record(task_id, b"done"))
        for state in (FAILURE, STARTED, "PROGRESS"):
            put(stage, stage.record(task_id, b"late", state))
        assert stage.results(task_id) == {task_id: b"done"}

    def test_a_success_is_final_within_one_put(self, stage: Stage) -> None:
        task_id = new_id()
        put(
            stage,
            stage.record(task_id, b"early", STARTED),
            stage.record(task_id, b"done"),
            stage.record(task_id, b"late", FAILURE),
        )
        assert stage.results(task_id) == {task_id: b"done"}

    def test_large_results_are_stored_whole(self, stage: Stage) -> None:
        task_id, meta = new_id(), bytes(range(256)) * 4096
        put(stage, stage.record(task_id, meta))
        assert stage.results(task_id)[task_id] == meta

    def test_a_result_is_forgotten_when_it_expires(self, stage: Stage) -> None:
        gone, kept, lasting = new_id(), new_id(), new_id()
        put(
            stage,
            stage.record(gone, expires_in=stage.short),
            stage.record(kept, expires_in=stage.short + 600.0),
            stage.record(lasting, expires_in=None),
        )
        stage.lapse(stage.short * 1.2)
        assert set(stage.results(gone, kept, lasting)) == {kept, lasting}

    def test_forget_deletes_results(self, stage: Stage) -> None:
        gone, kept = new_id(), new_id()
        put(stage, stage.record(gone), stage.record(kept))
        stage.results(gone, kept)
        stage.server.results.forget([gone, "never-seen"])
        assert set(stage.results(gone, kept)) == {kept}

    def test_after_close_of_the_store_the_next_call_opens_again(self, stage: Stage) -> None:
        task_id = new_id()
        stage.server.results.close()
        stage.server.results.close()
        stage.server.results.put([stage.record(task_id)])
        assert set(stage.results(task_id)) == {task_id}

    # --- watch

    def test_watch_reports_what_was_stored_before_add(self, stage: Stage) -> None:
        task_id = new_id()
        put(stage, stage.record(task_id, b"meta"))
        watch = stage.watch()
        watch.add([task_id])
        assert follow(watch, 1) == [(task_id, b"meta")]

    def test_watch_reports_what_is_stored_after_add(self, stage: Stage) -> None:
        task_id = new_id()
        watch = stage.watch()
        watch.add([task_id])
        assert watch.receive(timeout=stage.backend.quiet) == []
        waiting = in_thread(lambda: follow(watch, 1))
        put(stage, stage.record(task_id, b"meta"))
        assert waiting() == [(task_id, b"meta")]

    def test_watch_follows_ids_added_while_it_waits(self, stage: Stage) -> None:
        before, after = new_id(), new_id()
        watch = stage.watch()
        put(stage, stage.record(before))
        waiting = in_thread(lambda: follow(watch, 2))
        watch.add([before, after])
        put(stage, stage.record(after))
        assert sorted(task_id for task_id, _ in waiting()) == sorted([before, after])

    def test_watch_reports_only_ids_it_follows(self, stage: Stage) -> None:
        mine, other = new_id(), new_id()
        watch = stage.watch()
        watch.add([mine])
        put(stage, stage.record(other), stage.record(mine))
        assert [task_id for task_id, _ in follow(watch, 1)] == [mine]

    def test_watch_follows_discarded_ids_no_more(self, stage: Stage) -> None:
        kept, dropped = new_id(), new_id()
        watch = stage.watch()
        watch.add([kept, dropped])
        watch.discard([dropped, "never-seen"])
        put(stage, stage.record(dropped), stage.record(kept))
        assert [task_id for task_id, _ in follow(watch, 1)] == [kept]

    def test_watch_reports_every_final_meta_of_many_tasks(self, stage: Stage) -> None:
        metas = {new_id(): str(number).encode() for number in range(200)}
        watch = stage.watch()
        watch.add(metas)
        records = [stage.record(task_id, meta) for task_id, meta in metas.items()]
        worker = stage.open().results

        def store() -> None:
            for start in range(0, 200, 7):
                worker.put(records[start : start + 7])

        join = in_thread(store)
        assert dict(follow(watch, 200)) == metas
        join()

    def test_watch_reports_in_the_order_of_storing(self, stage: Stage) -> None:
        task_ids = [new_id() for _ in range(30)]
        watch = stage.watch()
        watch.add(task_ids)
        worker = stage.open().results
        for task_id in task_ids:
            worker.put([stage.record(task_id)])
        reported = [task_id for task_id, _ in follow(watch, 30)]
        assert list(dict.fromkeys(reported)) == task_ids

    def test_of_several_intermediate_metas_the_last_is_reported(self, stage: Stage) -> None:
        task_id = new_id()
        watch = stage.watch()
        watch.add([task_id])
        for step in range(5):
            put(stage, stage.record(task_id, str(step).encode(), "PROGRESS"))
        seen = follow_until(watch, task_id, b"4")
        assert seen == sorted(seen)
        put(stage, stage.record(task_id, b"done"))
        assert follow_until(watch, task_id, b"done")[-1] == b"done"

    def test_watch_wake_makes_a_receive_that_waits_return(self, stage: Stage) -> None:
        watch = stage.watch()
        watch.add([new_id()])
        timer = threading.Timer(0.1, watch.wake)
        began = SYSTEM_CLOCK.monotonic()
        timer.start()
        assert watch.receive(timeout=2 * PATIENCE) == []
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE
        timer.join()

    def test_watch_wake_before_makes_the_next_receive_not_wait(self, stage: Stage) -> None:
        watch = stage.watch()
        watch.add([new_id()])
        watch.receive(timeout=0.0)
        in_thread(watch.wake)()
        began = SYSTEM_CLOCK.monotonic()
        assert watch.receive(timeout=2 * PATIENCE) == []
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE

    def test_watch_may_be_handed_on_to_another_thread(self, stage: Stage) -> None:
        first, second = new_id(), new_id()
        watch = stage.watch()
        watch.add([first, second])
        put(stage, stage.record(first))
        assert [task_id for task_id, _ in in_thread(follow, watch, 1)()] == [first]
        put(stage, stage.record(second))
        assert [task_id for task_id, _ in in_thread(follow, watch, 1)()] == [second]

    def test_watch_receive_ends_at_its_timeout(self, stage: Stage) -> None:
        watch = stage.watch()
        watch.add([new_id()])
        began = SYSTEM_CLOCK.monotonic()
        assert watch.receive(timeout=0.2) == []
        assert 0.15 <= SYSTEM_CLOCK.monotonic() - began < PATIENCE

    def test_watch_close_is_idempotent(self, stage: Stage) -> None:
        watch = stage.watch()
        watch.add([new_id()])
        watch.close()
        watch.close()

    def test_watch_is_not_told_of_a_result_that_did_not_replace_success(self, stage: Stage) -> None:
        task_id = new_id()
        put(stage, stage.record(task_id, b"done"))
        watch = stage.watch()
        watch.add([task_id])
        assert follow(watch, 1) == [(task_id, b"done")]
        put(stage, stage.record(task_id, b"late", FAILURE))
        assert all(meta == b"done" for _, meta in watch.receive(timeout=stage.backend.quiet))

    def test_many_threads_watch_at_once(self, stage: Stage) -> None:
        wanted = [[new_id() for _ in range(5)] for _ in range(6)]

        def wait(task_ids: list[str]) -> set[str]:
            watch = stage.server.results.watch()
            watch.add(task_ids)
            try:
                return {task_id for task_id, _ in follow(watch, 5)}
            finally:
                watch.close()

        joins = [in_thread(wait, mine) for mine in wanted]
        put(stage, *(stage.record(task_id) for mine in wanted for task_id in mine))
        assert [join() for join in joins] == [set(mine) for mine in wanted]

    def test_processes_watch_results_that_this_one_stores(self, stage: Stage) -> None:
        if not stage.backend.across_processes:
            return
        options = {key: value for key, value in stage.backend.options.items() if key != "clock"}
        context = multiprocessing.get_context("spawn")
        task_ids = [new_id(), new_id()]
        pipes = []
        for task_id in task_ids:
            ours, theirs = context.Pipe()
            arguments = (stage.backend.url, options, task_id, theirs)
            process = context.Process(target=watch_in_process, args=arguments, daemon=True)
            process.start()
            pipes.append((process, ours))
        for (_, pipe), task_id in zip(pipes, task_ids, strict=True):
            assert pipe.poll(3 * PATIENCE), "the process did not begin to watch"
            record = ResultRecord(task_id, task_id.encode(), SUCCESS, reply_to=pipe.recv())
            stage.server.results.put([record])
        for (process, pipe), task_id in zip(pipes, task_ids, strict=True):
            assert pipe.poll(PATIENCE), "the process was not told of the result"
            assert pipe.recv() == [(task_id, task_id.encode())]
            process.join(PATIENCE)


def put(stage: Stage, *records: ResultRecord) -> None:
    """Store results as a worker does, through a handle of its own."""
    server = stage.open()
    server.results.put(records)
    server.close()


def follow(watch: Watch, count: int) -> list[tuple[str, bytes]]:
    """Receive until so many different tasks were reported."""
    reported: list[tuple[str, bytes]] = []
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while len({task_id for task_id, _ in reported}) < count:
        left = deadline - SYSTEM_CLOCK.monotonic()
        assert left > 0, f"told of {len(reported)} results and not {count} in {PATIENCE} s"
        reported += watch.receive(timeout=left)
    return reported


def follow_until(watch: Watch, task_id: str, meta: bytes) -> list[bytes]:
    """Return the metas reported up to this one."""
    seen: list[bytes] = []
    while meta not in seen:
        seen += [each for reported, each in follow(watch, 1) if reported == task_id]
    return seen


def watch_in_process(url: str, options: Mapping[str, Any], task_id: str, pipe: Any) -> None:
    """Tell where results shall go, wait for one and tell it: what another process does."""
    server = servers.open(url, options)
    store: ResultStore = server.results
    watch = store.watch()
    watch.add([task_id])
    pipe.send(store.reply_to)
    pipe.send(follow(watch, 1))
    watch.close()
    server.close()
