"""Real workers, started as users start them: pools, limits, shutdown, crashes."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.system.chaos.harness import kill, wait_until
from tests.system.pools import Running, Start, started
from umbel.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from umbel.servers.seams import Depth

TASKS = """
import asyncio, os, signal, time
from umbel import Umbel
from umbel.exceptions import SoftTimeLimitExceeded

app = Umbel("tasks", broker=os.environ["BROKER"], worker_lease=2.0,
            worker_soft_shutdown_timeout=float(os.environ.get("PATIENCE", "8")))

@app.task
def add(x, y):
    return x + y

@app.task
def where():
    return os.getpid()

@app.task
def nap(seconds, path=""):
    if path:
        with open(path, "a") as file:
            file.write("began\\n")
    time.sleep(seconds)
    return seconds

@app.task
async def doze(seconds):
    await asyncio.sleep(seconds)
    return seconds

@app.task(soft_time_limit=0.3)
def soft():
    time.sleep(30)

@app.task(time_limit=0.5)
def hard(path):
    with open(path, "a") as file:
        file.write("began\\n")
    while True:
        pass

@app.task(time_limit=0.5)
async def hard_async():
    await asyncio.sleep(30)

@app.task
def suicide(after):
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return partial(started, tmp_path, TASKS)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_every_pool_runs_both_kinds_of_tasks_and_stops(start: Start, pool: str) -> None:
    with start("-P", pool, "-c", "2") as worker:
        send = worker.app.send_task
        assert send("tasks.add", (2, 3)).get(timeout=60) == 5
        assert send("tasks.doze", (0.1,)).get(timeout=60) == 0.1
        pid = send("tasks.where").get(timeout=60)
        assert (pid == worker.process.pid) is (pool == "solo")
        worker.stop()


@pytest.mark.parametrize("pool", ["prefork", "solo"])  # of threads: test_engine.py
def test_a_soft_limit_interrupts_a_task_that_sleeps(start: Start, pool: str) -> None:
    with start("-P", pool, "-c", "1") as worker, pytest.raises(SoftTimeLimitExceeded):
        worker.app.send_task("tasks.soft").get(timeout=60)


def test_a_hard_limit_ends_the_process_once_and_tells_the_caller(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "began"
    with start("-c", "1") as worker:
        limited = worker.app.send_task("tasks.hard", (str(path),))
        behind = worker.app.send_task("tasks.add", (1, 1))
        with pytest.raises(TimeLimitExceeded):
            limited.get(timeout=60)
        assert behind.get(timeout=60) == 2
        with pytest.raises(TimeLimitExceeded):
            worker.app.send_task("tasks.hard_async").get(timeout=60)
    assert path.read_text() == "began\n"


def test_a_warm_shutdown_finishes_what_runs_and_gives_back_the_rest(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "began"
    with start("-c", "1") as worker:
        first = worker.app.send_task("tasks.nap", (1.0, str(path)))
        rest = [worker.app.send_task("tasks.nap", (0.0,)) for _ in range(10)]
        wait_until(path.exists, timeout=60, why=lambda: "it did not begin")
        worker.stop()
        assert first.state == "SUCCESS"
        assert _depth(worker).held == 0
        assert _depth(worker).ready == sum(1 for each in rest if not each.ready())


def test_a_signal_to_the_whole_group_is_a_warm_shutdown_too(start: Start, tmp_path: Path) -> None:
    # As systemd sends it by default: supervisor, children and node get it at the same time.
    path = tmp_path / "began"
    with start("-c", "2") as worker:
        result = worker.app.send_task("tasks.nap", (1.0, str(path)))
        wait_until(path.exists, timeout=60, why=lambda: "it did not begin")
        os.killpg(worker.process.pid, signal.SIGTERM)
        assert worker.process.wait(60) == 0
        assert result.state == "SUCCESS"
        assert _depth(worker).held == 0


def test_processes_of_a_node_with_a_long_name_are_told_apart(start: Start) -> None:
    with start("-c", "2", "-n", f"{'ñ' * 100}@%h") as worker:
        results = [worker.app.send_task("tasks.nap", (0.1,)) for _ in range(6)]
        assert [each.get(timeout=60) for each in results] == [0.1] * 6
        consumers = worker.app.servers().broker.transport.depth(["celery"])["celery"].consumers
        assert consumers == 2
        assert "does not answer" not in worker.log.read_text()


def test_an_idle_worker_stops_at_once(start: Start) -> None:
    # Given more patience than the test has
    with start("-c", "2", patience=600) as worker:
        assert worker.app.send_task("tasks.add", (1, 1)).get(timeout=60) == 2
        worker.stop()


def test_a_shutdown_with_a_deadline_gives_back_what_still_runs(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "began"
    with start("-c", "1", patience=0.5) as worker:
        worker.app.send_task("tasks.nap", (600.0, str(path)))
        wait_until(path.exists, timeout=60, why=lambda: "it did not begin")
        worker.stop()
        assert (_depth(worker).ready, _depth(worker).held) == (1, 0)


@pytest.mark.parametrize("signals", [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM)])
def test_a_cold_shutdown_is_at_once_and_loses_nothing(
    start: Start, tmp_path: Path, signals: tuple[int, ...]
) -> None:
    path = tmp_path / "began"
    with start("-c", "2", patience=600) as worker:
        worker.app.send_task("tasks.nap", (600.0, str(path)))
        wait_until(path.exists, timeout=60, why=lambda: "it did not begin")
        for signum in signals[:-1]:
            worker.process.send_signal(signum)
            wait_until(lambda: "warm shutdown" in worker.log.read_text(), timeout=60, why=str)
        worker.stop(signals[-1])
        assert (_depth(worker).ready, _depth(worker).held) == (1, 0)


def test_a_killed_workers_tasks_run_elsewhere_within_its_lease(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "began"
    with start("-c", "1") as worker:
        result = worker.app.send_task("tasks.nap", (1.0, str(path)))
        wait_until(path.exists, timeout=60, why=lambda: "it did not begin")
        for pid in [worker.process.pid, *worker.children()]:
            kill(pid)
        worker.process.wait()
    with start("-c", "1"):
        assert result.get(timeout=60) == 1.0
    assert path.read_text() == "began\n" * 2


def test_children_stop_when_their_supervisor_is_gone(start: Start) -> None:
    with start("-c", "2") as worker:
        children = worker.children()
        kill(worker.process.pid)
        worker.process.wait()
        wait_until(
            lambda: not any(_lives(pid) for pid in children),
            timeout=15,
            why=lambda: f"still there: {[pid for pid in children if _lives(pid)]}",
        )


def test_of_several_that_ran_together_only_the_killer_is_charged(start: Start) -> None:
    # Given a process that runs four tasks at a time and is killed by one of them, again and again
    with start("-P", "threads", "-c", "4") as worker:
        innocent = [worker.app.send_task("tasks.nap", (0.3,)) for _ in range(6)]
        killer = worker.app.send_task("tasks.suicide", (0.1,))
        # Then the killer is found out and the others are done
        with pytest.raises(WorkerLostError):
            killer.get(timeout=60)
        assert [each.get(timeout=60) for each in innocent] == [0.3] * 6
        ledger = worker.app.servers().ledger
        assert ledger is not None
        assert [letter.message.id for letter in ledger.dead_letters()] == [killer.id]


def _depth(worker: Running) -> Depth:
    return worker.app.servers().broker.transport.depth(["celery"])["celery"]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
