"""Real workers whose processes wear out, grow in number and shrink again."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.servers import Server
from tests.system.chaos.harness import wait_until
from tests.system.projects import Project
from umbel import Umbel

TASKS = """
import json, os, time
from umbel import Umbel

app = Umbel("tasks", broker=os.environ["BROKER"], worker_lease=3.0)
kept = []


@app.task
def where(seconds=0.0):
    began = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), began, time.monotonic()


@app.task
async def doze():
    return os.getpid()


@app.task
def leak(megabytes):
    kept.append(bytearray(b"x" * (megabytes << 20)))
    with open("/proc/self/statm") as statm:
        return os.getpid(), int(statm.read().split()[1]) * 4
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, TASKS, BROKER=f"sqlite:///{tmp_path}/broker.sqlite")


@pytest.fixture
def app(project: Project) -> Generator[Umbel]:
    with Umbel("client", broker=project.environment["BROKER"], set_as_current=False) as app:
        yield app


def test_no_process_runs_more_tasks_than_it_may(project: Project, app: Umbel) -> None:
    # Given
    with project.worker("worker", "-A", "tasks", "-c", "2", "--max-tasks-per-child", "5"):
        # When
        results = [app.send_task("tasks.where") for _ in range(100)]
        found = [result.get(timeout=60) for result in results]
        pids = Counter(pid for pid, _, _ in found)
    # Then
    assert max(pids.values()) <= 5
    assert len(pids) >= 20


def test_each_task_may_have_a_process_and_they_are_never_too_many(
    project: Project, app: Umbel
) -> None:
    # Given
    with project.worker("worker", "-A", "tasks", "-c", "2", "--max-tasks-per-child", "1"):
        # When
        results = [app.send_task("tasks.where", (0.1,)) for _ in range(20)]
        found = [result.get(timeout=60) for result in results]
    # Then
    assert len({pid for pid, _, _ in found}) == 20
    for _, began, _ in found:
        assert sum(1 for _, other, ended in found if other <= began < ended) <= 2
    # and the successor of a process was there when it was needed
    spent = max(ended for _, _, ended in found) - min(began for _, began, _ in found)
    assert spent < 20 * 0.1 / 2 * 5


def test_coroutine_tasks_wear_a_process_too(project: Project, app: Umbel) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1", "--max-tasks-per-child", "10"):
        results = [app.send_task("tasks.doze") for _ in range(50)]
        pids = Counter(result.get(timeout=60) for result in results)
    assert max(pids.values()) <= 10


def test_a_ceiling_of_memory_holds_for_a_task_that_leaks(project: Project, app: Umbel) -> None:
    # Given a limit that a few calls exceed
    limit = 100 << 10
    with project.worker(
        "worker", "-A", "tasks", "-c", "1", "--max-memory-per-child", str(limit), "-l", "info"
    ) as worker:
        # When
        results = [app.send_task("tasks.leak", (10,)) for _ in range(60)]
        found = [result.get(timeout=60) for result in results]
        log = worker.log.read_text()
    # Then
    assert "KiB of memory" in log
    assert max(size for _, size in found) < limit * 1.3
    assert 5 <= len({pid for pid, _ in found}) <= 40


def test_a_process_at_its_limit_with_a_killed_successor_is_replaced(
    project: Project, app: Umbel
) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1", "--max-tasks-per-child", "1") as worker:
        slow = app.send_task("tasks.where", (2.0,))
        behind = app.send_task("tasks.where")
        (successor,) = _appear(worker, besides=_children(worker.pid))
        os.kill(successor, 9)
        assert slow.get(timeout=60)
        assert behind.get(timeout=60)


def _appear(worker: Server, besides: set[int]) -> set[int]:
    found: set[int] = set()

    def appeared() -> bool:
        found.update(_children(worker.pid) - besides)
        return bool(found)

    wait_until(appeared, timeout=60, why=worker.log.read_text)
    return found


def _children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_autoscale_follows_the_load_and_kills_nobody(project: Project, app: Umbel) -> None:
    # Given
    with project.worker("worker", "-A", "tasks", "--autoscale", "3,1", "-l", "info") as worker:
        # When
        results = [app.send_task("tasks.where", (0.5,)) for _ in range(20)]
        found = [result.get(timeout=60) for result in results]
        log = worker.log.read_text()
    # Then
    assert len({pid for pid, _, _ in found}) == 3
    assert re.search("Autoscale: 2 processes instead of 1", log)
    assert re.search("Autoscale: 3 processes instead of 2", log)
    assert "was ended by" not in log


@pytest.mark.parametrize("value", ["x", "1,3", "0,0", "3,x"])
def test_bounds_that_make_no_sense_are_refused(project: Project, value: str) -> None:
    done = project.umbel("worker", "-A", "tasks", "--autoscale", value)
    assert done.returncode == 2
    assert "expected MAX,MIN" in done.stderr


def test_autoscale_needs_processes(project: Project) -> None:
    done = project.umbel("worker", "-A", "tasks", "--autoscale", "3,1", "-P", "threads")
    assert done.returncode == 2
    assert "needs the pool prefork" in done.stderr
