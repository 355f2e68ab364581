"""Rate limits in real workers: kept, used to the full, and nobody waits behind them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.system.projects import Project
from umbel import Umbel

TASKS = """
import os, time
from umbel import Umbel

app = Umbel("tasks", broker=os.environ["BROKER"])


@app.task(rate_limit="20/s")
def limited(number):
    return os.getpid(), time.monotonic()


@app.task(rate_limit="20/s")
async def doze(number):
    return os.getpid(), time.monotonic()


@app.task
def free():
    return time.monotonic()


@app.task(rate_limit="often")
def bad():
    pass
"""


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/broker.sqlite"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def project(tmp_path: Path, broker: str) -> Project:
    return Project(tmp_path, TASKS.partition('\n\n@app.task(rate_limit="often")')[0], BROKER=broker)


@pytest.fixture
def app(broker: str) -> Generator[Umbel]:
    with Umbel("client", broker=broker, set_as_current=False) as app:
        yield app


@pytest.mark.parametrize("task", ["tasks.limited", "tasks.doze"])
def test_several_processes_keep_one_rate_and_others_pass_by(
    project: Project, app: Umbel, task: str
) -> None:
    # Given more work than may start at once, and a task without a limit behind it
    results = [app.send_task(task, (number,)) for number in range(80)]
    free = app.send_task("tasks.free")
    # When
    with project.worker("worker", "-A", "tasks", "-c", "3"):
        found = sorted((result.get(timeout=60) for result in results), key=lambda each: each[1])
        passed = free.get(timeout=60)
    # Then
    times = [at for _, at in found]
    # Two budgets would need half of the time; a start may always be late
    assert 0.7 * 80 / 20 < times[-1] - times[0] < 5 * 80 / 20
    assert passed < times[-1]
    for first, later in zip(times, times[40:], strict=False):
        assert later - first > 0.7 * 40 / 20


def test_they_can_be_off(project: Project, app: Umbel) -> None:
    project.environment["UMBEL_WORKER_DISABLE_RATE_LIMITS"] = "1"
    with project.worker("worker", "-A", "tasks", "-c", "1"):
        results = [app.send_task("tasks.limited", (number,)) for number in range(300)]
        times = sorted(result.get(timeout=60)[1] for result in results)
    assert times[-1] - times[0] < 0.7 * 300 / 20


def test_one_that_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path, TASKS, BROKER="memory://")
    done = project.umbel("worker", "-A", "tasks")
    assert done.returncode == 1
    assert "rate_limit" in done.stderr
    assert "rate_limit: expected a rate such as" in done.stderr
