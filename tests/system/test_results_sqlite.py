"""Waiting for results that other processes store in one SQLite file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.results import Writer, nothing_left, put
from umbel import servers
from umbel.bridge import ResultBridge, aio
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TimeoutError
from umbel.ids import new_id
from umbel.servers.seams import ResultStore
from umbel.testing.contract.stage import PATIENCE, eventually, in_thread

#: Seconds that a wait here may take on a busy machine.
LONG = 3 * PATIENCE


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.sqlite"


@pytest.fixture
def store(url: str) -> Iterator[ResultStore]:
    server = servers.open(url)
    yield server.results
    server.close()


@pytest.fixture
def bridge(store: ResultStore) -> Iterator[ResultBridge]:
    bridge = ResultBridge(store)
    yield bridge
    bridge.close()


@pytest.fixture
def writer(url: str) -> Iterator[Writer]:
    writer = Writer(url)
    yield writer
    writer.close()


def test_a_thread_is_told_of_what_another_process_stores(
    bridge: ResultBridge, writer: Writer
) -> None:
    for _ in range(20):
        task_id = new_id()
        waiting = in_thread(bridge.wait, [task_id], timeout=PATIENCE)
        writer.store(task_id)
        assert set(waiting()) == {task_id}


def test_progress_is_followed_live(bridge: ResultBridge, writer: Writer) -> None:
    # Given a task that takes its next step when its caller has seen the one before
    task_id = new_id()
    writer.store(task_id, state="PROGRESS", value=0)
    seen: list[Any] = []
    for arrivals in bridge.follow([task_id], timeout=LONG):
        seen += [bridge.decode(meta)["result"] for _, meta, _ in arrivals]
        if len(seen) < 5:
            writer.store(task_id, state="PROGRESS", value=len(seen))
        else:
            writer.store(task_id, value="done")
    # Then the caller sees each
    assert seen == [0, 1, 2, 3, 4, "done"]


def test_threads_and_coroutines_wait_together_for_two_writers(
    url: str, bridge: ResultBridge, writer: Writer
) -> None:
    # Given 20 threads that wait for 10 tasks each, and two loops with 300 coroutines each
    threads = [[new_id() for _ in range(10)] for _ in range(20)]
    loops = [[new_id() for _ in range(300)] for _ in range(2)]

    async def main(task_ids: list[str]) -> set[str]:
        found = await asyncio.gather(*(aio.wait(bridge, [each], timeout=LONG) for each in task_ids))
        return {task_id for each in found for task_id in each}

    joins = [in_thread(bridge.wait, mine, timeout=LONG) for mine in threads]
    joins += [in_thread(asyncio.run, main(mine)) for mine in loops]  # type: ignore[arg-type]
    # When two processes store all results, in batches of all sizes, and one more is killed
    task_ids = [task_id for mine in (*threads, *loops) for task_id in mine]
    random.Random(7).shuffle(task_ids)
    other, killed = Writer(url), Writer(url)
    killed.store(*task_ids[:5])
    killed.kill()
    while task_ids:
        for each in (writer, other):
            batch, task_ids = task_ids[: len(task_ids) % 37 + 1], task_ids[len(task_ids) % 37 + 1 :]
            each.store(*batch)
    # Then everybody is told of all, and nothing is left
    assert [set(join()) for join in joins] == [set(mine) for mine in (*threads, *loops)]
    eventually(lambda: nothing_left(bridge), "nothing is left")
    other.close()


def test_forked_children_wait_for_themselves(
    store: ResultStore, bridge: ResultBridge, writer: Writer
) -> None:
    # Given a bridge with an open watch
    before = new_id()
    put(store, before)
    bridge.wait([before], timeout=PATIENCE)
    # When children are forked and each waits for a result of its own
    wanted = [new_id() for _ in range(3)]
    children = [_fork_waiter(bridge, task_id) for task_id in wanted]
    mine = new_id()
    waiting = in_thread(bridge.wait, [mine], timeout=LONG)
    for task_id in (*wanted, mine):
        writer.store(task_id)
    # Then they and the parent are told
    assert [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children] == [0] * 3
    assert set(waiting()) == {mine}


def _fork_waiter(bridge: ResultBridge, task_id: str) -> int:
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if set(bridge.wait([task_id], timeout=LONG)) == {task_id} else 1
        finally:
            os._exit(code)
    return child


class Struck(BaseException):
    """Raised by a signal handler, wherever the main thread is, as a soft time limit is."""


@contextlib.contextmanager
def strikes(seed: int) -> Generator[threading.Event]:
    """Strike the main thread at random moments, once for each time that the event is set."""
    armed, over = threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def strike(_: int, __: FrameType | None) -> None:
        if armed.is_set():
            armed.clear()
            raise Struck

    def strike_often() -> None:
        rng = random.Random(seed)
        while not over.wait(rng.random() * 0.004):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    striking = in_thread(strike_often)
    try:
        yield armed
    finally:
        armed.clear()
        over.set()
        striking()
        signal.signal(signal.SIGUSR1, before)


# What strikes in a destructor cannot be raised: Python only reports it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_exceptions_that_strike_a_waiting_thread_anywhere_harm_nobody_else(
    bridge: ResultBridge, writer: Writer
) -> None:
    # Given threads and coroutines that wait, give up and wait again
    stop = threading.Event()

    def wait_on(seed: int) -> int:
        rng, count = random.Random(seed), 0
        while not stop.is_set():
            task_ids = [new_id() for _ in range(rng.choice([1, 1, 5]))]
            writer.store(*task_ids)
            if rng.random() < 0.2:
                with contextlib.suppress(TimeoutError):
                    bridge.wait(task_ids, timeout=rng.random() * 0.003)
            count += len(bridge.wait(task_ids, timeout=LONG))
        return count

    async def await_on() -> int:
        count = 0
        while not stop.is_set():
            task_ids = [new_id() for _ in range(20)]
            writer.store(*task_ids)
            waits = [asyncio.create_task(aio.wait(bridge, [each])) for each in task_ids]
            await asyncio.sleep(0)
            waits[0].cancel()
            await asyncio.gather(*waits[1:])
            count += len(await aio.wait(bridge, task_ids, timeout=LONG))
        return count

    joins = [in_thread(wait_on, seed) for seed in range(3)]
    joins.append(in_thread(asyncio.run, await_on()))
    # When the main thread's waits are struck 600 times
    struck = 0
    with strikes(seed=5) as armed:
        while struck < 600:
            task_id = new_id()
            writer.store(task_id)
            try:
                armed.set()
                bridge.wait([task_id], timeout=LONG)
                armed.clear()
            except Struck:
                struck += 1
    stop.set()
    # Then all others had all of theirs, and nothing is left
    counts = [join() for join in joins]
    print(f"{struck} strikes; {sum(counts)} results to others")
    assert all(counts)
    eventually(lambda: nothing_left(bridge), "nothing is left")


PROGRAM = """
import sys, threading
from umbel import servers
from umbel.bridge import ResultBridge, aio
from umbel.bridge.callbacks import tell

bridge = ResultBridge(servers.open(sys.argv[1]).results)
threading.Thread(target=bridge.wait, args=(["never"],), daemon=True).start()
tell(bridge, ["never either"], print, lambda error: None)
while not bridge._leader:
    pass
"""


@pytest.mark.filterwarnings("default")
def test_a_program_ends_although_some_still_wait(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "Fatal" not in done.stderr


def test_waiting_costs_no_cpu(bridge: ResultBridge) -> None:
    began = SYSTEM_CLOCK.monotonic()
    used = os.times()
    with pytest.raises(TimeoutError):
        bridge.wait([new_id()], timeout=1.0)
    now = os.times()
    spent = now.user + now.system - used.user - used.system
    assert SYSTEM_CLOCK.monotonic() - began >= 1.0
    assert spent < 0.1
