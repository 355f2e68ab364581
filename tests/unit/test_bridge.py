"""Many waiters on one watch: who reads it, who is told, and what is left when they have gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from tests.results import meta, nothing_left, put
from umbel import servers
from umbel.bridge import ResultBridge
from umbel.bridge.callbacks import tell
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import BackendError, ConnectionLost, StorageError, TimeoutError
from umbel.ids import new_id
from umbel.message import ResultRecord
from umbel.servers.seams import ResultStore, Watch
from umbel.states import FAILURE, STARTED, SUCCESS
from umbel.testing.contract.stage import PATIENCE, eventually, in_thread
from umbel.testing.flaky import AFTER, BEFORE, DROP, Fault, FlakyServer, script
from umbel.testing.probe import Probe


@pytest.fixture
def store() -> ResultStore:
    return servers.open(f"memory://{new_id()}").results


@pytest.fixture
def bridge(store: ResultStore) -> Iterator[ResultBridge]:
    bridge = ResultBridge(store)
    yield bridge
    bridge.close()


def asleep(bridge: ResultBridge, count: int) -> None:
    eventually(lambda: len(bridge._asleep) == count, f"{count} threads asleep")


def led(bridge: ResultBridge) -> None:
    eventually(lambda: bridge._leader is not None and bridge._watch is not None, "somebody leads")


class Counted:
    """A store that counts its watches, and what they follow."""

    def __init__(self, inner: ResultStore, spoil: Callable[[], None] = lambda: None) -> None:
        self.inner = inner
        self.reply_to = inner.reply_to
        self.caveat = inner.caveat
        self.shared = inner.shared
        self.watches = 0
        self.closed = 0
        self.followed: set[str] = set()
        self.readers: set[int] = set()
        self.spoil = spoil

    def put(self, records: Sequence[ResultRecord]) -> None:
        self.inner.put(records)

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        return self.inner.get(task_ids)

    def forget(self, task_ids: Sequence[str]) -> None:
        self.inner.forget(task_ids)

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:
        self.inner.save_group(group_id, data, expires_in=expires_in)

    def saved_group(self, group_id: str) -> bytes | None:
        return self.inner.saved_group(group_id)

    def forget_group(self, group_id: str) -> None:
        self.inner.forget_group(group_id)

    def watch(self) -> Watch:
        self.watches += 1
        return CountedWatch(self, self.inner.watch())

    def close(self) -> None:
        self.inner.close()


class CountedWatch:
    def __init__(self, store: Counted, inner: Watch) -> None:
        self._store = store
        self._inner = inner
        self._mine: set[str] = set()

    def add(self, task_ids: Iterable[str]) -> None:
        added = list(task_ids)
        self._mine.update(added)
        self._store.followed.update(added)
        self._inner.add(added)

    def discard(self, task_ids: Iterable[str]) -> None:
        gone = list(task_ids)
        self._mine.difference_update(gone)
        self._store.followed.difference_update(gone)
        self._inner.discard(gone)

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        self._store.readers.add(threading.get_ident())
        received = self._inner.receive(timeout)
        if received:
            self._store.spoil()
        return received

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._store.closed += 1
        self._store.followed -= self._mine
        self._inner.close()


# --- one thread


def test_wait_returns_what_is_stored(store: ResultStore, bridge: ResultBridge) -> None:
    first, second = new_id(), new_id()
    put(store, first, second)
    assert bridge.wait([first, second, first], timeout=PATIENCE) == {
        first: meta(first),
        second: meta(second),
    }
    assert nothing_left(bridge)


def test_wait_returns_what_is_stored_later(store: ResultStore, bridge: ResultBridge) -> None:
    task_id = new_id()
    waiting = in_thread(bridge.wait, [task_id], timeout=PATIENCE)
    led(bridge)
    put(store, task_id)
    assert waiting() == {task_id: meta(task_id)}


def test_wait_for_nothing_returns_at_once(bridge: ResultBridge) -> None:
    assert bridge.wait([]) == {}


def test_a_lone_waiter_reads_the_watch_itself(store: ResultStore) -> None:
    counted = Counted(store)
    bridge = ResultBridge(counted)
    threads = threading.active_count()
    for _ in range(3):
        task_id = new_id()
        put(store, task_id)
        bridge.wait([task_id], timeout=PATIENCE)
    assert counted.readers == {threading.get_ident()}
    assert threading.active_count() == threads
    assert (counted.watches, counted.followed) == (1, set())
    bridge.close()
    assert counted.closed == 1


def test_wait_ends_at_its_timeout_and_says_what_is_missing(bridge: ResultBridge) -> None:
    began = SYSTEM_CLOCK.monotonic()
    with pytest.raises(TimeoutError, match=r"^no result of a and 1 more in 0\.05 s$"):
        bridge.wait(["b", "a"], timeout=0.05)
    assert SYSTEM_CLOCK.monotonic() - began < PATIENCE
    assert nothing_left(bridge)


@pytest.mark.parametrize("timeout", [0, -1])
def test_wait_without_time_still_returns_what_is_stored(
    store: ResultStore, bridge: ResultBridge, timeout: float
) -> None:
    task_id, running = new_id(), new_id()
    put(store, task_id)
    put(store, running, state=STARTED)
    assert set(bridge.wait([task_id], timeout=timeout)) == {task_id}
    with pytest.raises(TimeoutError):
        bridge.wait([task_id, running], timeout=timeout)
    assert nothing_left(bridge)


def test_each_is_told_of_every_meta_as_it_comes(store: ResultStore, bridge: ResultBridge) -> None:
    task_id = new_id()
    states: list[bytes] = []
    told = threading.Event()

    def each(_: str, stored: bytes) -> None:
        states.append(stored)
        told.set()

    waiting = in_thread(bridge.wait, [task_id], timeout=PATIENCE, each=each)
    for value in range(3):
        told.clear()
        put(store, task_id, state="PROGRESS", value=value)
        assert told.wait(PATIENCE)
    put(store, task_id)
    waiting()
    expected = [meta(task_id, "PROGRESS", value) for value in range(3)]
    assert states == [*expected, meta(task_id)]


def test_what_each_raises_ends_the_wait(store: ResultStore, bridge: ResultBridge) -> None:
    task_id = new_id()
    put(store, task_id, state=STARTED)

    def each(*_: object) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        bridge.wait([task_id], each=each)
    assert nothing_left(bridge)


def test_metas_of_other_serializers_are_decoded_to_see_whether_they_are_final(
    store: ResultStore,
) -> None:
    task_id = new_id()
    bridge = ResultBridge(store, decode=lambda stored: {"status": stored.decode()})
    seen: list[bytes] = []
    waiting = in_thread(
        bridge.wait, [task_id], timeout=PATIENCE, each=lambda _, stored: seen.append(stored)
    )
    store.put([ResultRecord(task_id, b"STARTED", STARTED)])
    eventually(lambda: bool(seen), "told of STARTED")
    store.put([ResultRecord(task_id, b"FAILURE", FAILURE)])
    assert waiting() == {task_id: b"FAILURE"}
    bridge.close()


def test_a_meta_that_nobody_can_read_ends_the_wait(
    store: ResultStore, bridge: ResultBridge
) -> None:
    task_id = new_id()
    store.put([ResultRecord(task_id, b"\xff not json", SUCCESS)])
    assert bridge.wait([task_id], timeout=PATIENCE) == {task_id: b"\xff not json"}


# --- many threads


def test_all_who_wait_for_one_task_are_told(store: ResultStore, bridge: ResultBridge) -> None:
    task_id = new_id()
    waiting = [in_thread(bridge.wait, [task_id], timeout=PATIENCE) for _ in range(5)]
    asleep(bridge, 4)
    put(store, task_id)
    assert [join() for join in waiting] == [{task_id: meta(task_id)}] * 5
    assert nothing_left(bridge)


def test_many_threads_share_one_watch(store: ResultStore) -> None:
    counted = Counted(store)
    bridge = ResultBridge(counted)
    wanted = [[new_id() for _ in range(3)] for _ in range(100)]
    waiting = [in_thread(bridge.wait, mine, timeout=PATIENCE) for mine in wanted]
    put(store, *(mine[0] for mine in wanted))
    put(store, *(mine[1] for mine in reversed(wanted)))
    put(store, *(mine[2] for mine in wanted))
    assert [set(join()) for join in waiting] == [set(mine) for mine in wanted]
    assert nothing_left(bridge)
    assert (counted.watches, counted.followed) == (1, set())
    bridge.close()


def test_a_follower_that_came_late_is_told_of_what_was_stored_before(
    store: ResultStore, bridge: ResultBridge
) -> None:
    never, task_id = new_id(), new_id()
    leading = in_thread(bridge.wait, [never], timeout=PATIENCE)
    led(bridge)
    put(store, task_id)
    assert set(bridge.wait([task_id], timeout=PATIENCE)) == {task_id}
    put(store, never)
    leading()


def test_the_lead_passes_on_when_the_leader_has_its_result(
    store: ResultStore, bridge: ResultBridge
) -> None:
    task_ids = [new_id() for _ in range(4)]
    waiting = []
    for count, task_id in enumerate(task_ids):
        waiting.append(in_thread(bridge.wait, [task_id], timeout=PATIENCE))
        asleep(bridge, count)
        led(bridge)
    for task_id, join in zip(task_ids, waiting, strict=True):
        put(store, task_id)
        assert set(join()) == {task_id}


def test_the_lead_passes_on_when_the_leader_gives_up(
    store: ResultStore, bridge: ResultBridge
) -> None:
    task_id = new_id()
    leading = in_thread(bridge.wait, [new_id()], timeout=0.1)
    led(bridge)
    waiting = in_thread(bridge.wait, [task_id], timeout=PATIENCE)
    with pytest.raises(TimeoutError):
        leading()
    put(store, task_id)
    assert set(waiting()) == {task_id}


def test_what_a_leader_had_read_when_an_exception_struck_it_is_read_again(
    store: ResultStore,
) -> None:
    strikes = iter([KeyboardInterrupt()])

    def spoil() -> None:
        for strike in strikes:
            raise strike

    counted = Counted(store, spoil)
    bridge = ResultBridge(counted)
    first, second = new_id(), new_id()
    leading = in_thread(bridge.wait, [first], timeout=PATIENCE)
    led(bridge)
    waiting = in_thread(bridge.wait, [second], timeout=PATIENCE)
    asleep(bridge, 1)
    put(store, second)
    with pytest.raises(KeyboardInterrupt):
        leading()
    assert set(waiting()) == {second}
    assert (counted.watches, counted.closed) == (2, 1)
    assert nothing_left(bridge)
    bridge.close()


def test_an_error_of_the_store_ends_the_leaders_wait_only(store: ResultStore) -> None:
    strikes = iter([StorageError("disk full")])

    def spoil() -> None:
        for strike in strikes:
            raise strike

    bridge = ResultBridge(Counted(store, spoil))
    first, second = new_id(), new_id()
    leading = in_thread(bridge.wait, [first], timeout=PATIENCE)
    led(bridge)
    waiting = in_thread(bridge.wait, [second], timeout=PATIENCE)
    asleep(bridge, 1)
    put(store, second)
    with pytest.raises(StorageError, match="disk full"):
        leading()
    assert set(waiting()) == {second}
    bridge.close()


# --- lost connections


def flaky(**faults: list[Fault | None]) -> ResultStore:
    return FlakyServer(servers.open(f"memory://{new_id()}"), script(**faults)).results


def test_a_lost_connection_is_found_again_and_nothing_is_missed() -> None:
    store = flaky(follow=[BEFORE, AFTER, DROP, None, AFTER])
    bridge = ResultBridge(store)
    task_ids = [new_id() for _ in range(3)]
    with Probe() as probe:
        for task_id in task_ids:
            waiting = in_thread(bridge.wait, [task_id], timeout=PATIENCE)
            put(store, task_id)
            assert set(waiting()) == {task_id}
    lost, found = probe.seen("results.lost"), probe.seen("results.found_again")
    assert lost
    assert len(lost) == len(found)
    bridge.close()


def test_a_connection_that_stays_lost_ends_the_wait_after_the_bridges_patience() -> None:
    bridge = ResultBridge(flaky(follow=[BEFORE] * 1000), patience=0.05)
    with pytest.raises(ConnectionLost):
        bridge.wait([new_id()], timeout=PATIENCE)
    with pytest.raises(TimeoutError):
        ResultBridge(flaky(follow=[BEFORE] * 1000)).wait([new_id()], timeout=0.05)
    assert nothing_left(bridge)


# --- callbacks


def test_callbacks_are_called_in_the_background(store: ResultStore, bridge: ResultBridge) -> None:
    first, second = new_id(), new_id()
    answers: list[object] = []
    answered = threading.Event()

    def answer(metas: dict[str, bytes]) -> None:
        answers.append(metas)
        answered.set()

    tell(bridge, [first, second], answer, answers.append)
    put(store, first)
    put(store, second)
    assert answered.wait(PATIENCE)
    assert answers == [{first: meta(first), second: meta(second)}]
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_the_reader_and_threads_lead_by_turns(store: ResultStore, bridge: ResultBridge) -> None:
    answers: list[str] = []
    told, first, second = new_id(), new_id(), new_id()
    leading = in_thread(bridge.wait, [first], timeout=PATIENCE)
    led(bridge)
    tell(bridge, [told], answers.extend, lambda _: None)
    asleep(bridge, 1)
    put(store, first)
    leading()
    waiting = in_thread(bridge.wait, [second], timeout=PATIENCE)
    asleep(bridge, 1)
    put(store, told)
    eventually(lambda: answers == [told], "called back")
    put(store, second)
    assert set(waiting()) == {second}
    eventually(lambda: nothing_left(bridge), "nothing is left")


def test_a_callback_that_raises_harms_nobody(store: ResultStore, bridge: ResultBridge) -> None:
    task_id = new_id()
    answers: list[str] = []
    with Probe() as probe:
        tell(bridge, [task_id], lambda _: 1 / 0, lambda _: None)
        tell(bridge, [task_id], answers.extend, lambda _: None)
        put(store, task_id)
        probe.wait_for("results.callback_failed")
        eventually(lambda: answers == [task_id], "called back")


def test_callbacks_are_told_of_errors() -> None:
    bridge = ResultBridge(flaky(follow=[BEFORE] * 1000), patience=0.0)
    errors: list[BaseException] = []
    tell(bridge, [new_id()], lambda _: None, errors.append)
    eventually(lambda: len(errors) == 1, "told of the error")
    assert isinstance(errors[0], ConnectionLost)
    bridge.close()


# --- the end


def test_close_ends_all_waits_and_the_bridge_goes_on(store: ResultStore) -> None:
    counted = Counted(store)
    bridge = ResultBridge(counted)
    errors: list[BaseException] = []
    waiting = [in_thread(bridge.wait, [new_id()], timeout=PATIENCE) for _ in range(3)]
    asleep(bridge, 2)
    tell(bridge, [new_id()], lambda _: None, errors.append)
    asleep(bridge, 3)
    bridge.close()
    for join in waiting:
        with pytest.raises(BackendError):
            join()
    eventually(lambda: len(errors) == 1, "told of the end")
    eventually(lambda: counted.closed == 1, "the watch is closed")
    assert counted.followed == set()
    task_id = new_id()
    put(store, task_id)
    assert set(bridge.wait([task_id], timeout=PATIENCE)) == {task_id}
    assert nothing_left(bridge)
    bridge.close()
    bridge.close()
    assert (counted.watches, counted.closed) == (2, 2)


def test_a_forked_child_begins_with_nothing(store: ResultStore) -> None:
    counted = Counted(store)
    bridge = ResultBridge(counted)
    task_id = new_id()
    put(store, task_id)
    bridge.wait([task_id])
    child = os.fork()
    if child == 0:
        try:
            ok = nothing_left(bridge) and bridge._watch is None
            put(store, task_id)  # what is in memory is not inherited
            ok = ok and set(bridge.wait([task_id], timeout=PATIENCE)) == {task_id}
            ok = ok and (counted.watches, counted.closed) == (2, 0)
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bridge.close()
