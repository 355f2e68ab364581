"""``umbel queues`` on every broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.brokers import BROKERS, project_on
from tests.system.projects import Project, eventually
from umbel.cli.queues import HEADS

TASKS = """
import os

from umbel import Umbel

app = Umbel("tasks")


@app.task
def nothing():
    pass


@app.task
def wait(path):
    while not os.path.exists(path):
        __import__("time").sleep(0.02)
"""


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(tmp_path: Path, broker: str, request: pytest.FixtureRequest) -> Project:
    return project_on(broker, tmp_path, request, TASKS)


def seen(project: Project, queue: str = "celery") -> dict[str, Any]:
    (found,) = json.loads(project.out("queues", "-Q", queue, "--json"))
    assert isinstance(found, dict)
    return found


def test_it_counts_what_waits(project: Project, broker: str) -> None:
    # Given
    for _ in range(2):
        project.out("call", "tasks.nothing")
    project.out("call", "tasks.nothing", "--countdown", "600")
    # On Redis a delay waits where Celery's workers see it as long as no umbel consumes its queue
    ready = 3 if broker == "redis" else 2
    # When
    found = eventually(lambda: seen(project), lambda found: found["ready"] == ready)
    # Then
    knows = broker != "rabbitmq"
    assert found["delayed"] == (3 - ready if knows else None)
    assert found["held"] == (0 if knows else None)
    assert found["consumers"] == 0
    assert found["estimate"] is not knows
    heads, line = project.out("queues", "-Q", "celery").splitlines()
    assert heads.split() == list(HEADS)
    columns = [str(ready), str(3 - ready), "0"] if knows else ["~2", "?", "?"]
    assert line.split()[:4] == ["celery", *columns]
    assert line.split()[-1] == "0"


def test_it_knows_who_consumes(project: Project, broker: str, tmp_path: Path) -> None:
    with project.worker("worker", "-c", "2", "-n", "w1@%h"):
        found = eventually(lambda: seen(project), lambda found: found["consumers"] >= 2)
        if broker == "rabbitmq":
            return
        assert [name.partition("@")[0] for name in found["nodes"]] == ["w1"]
        project.out("call", "tasks.wait", "-a", json.dumps([str(tmp_path / "go")]))
        eventually(lambda: seen(project), lambda found: (found["ready"], found["held"]) == (0, 1))
        (tmp_path / "go").touch()


def test_a_queue_that_is_not_there_is_one_line(project: Project) -> None:
    project.out("call", "tasks.nothing")
    done = project.umbel("queues", "-Q", "celerie")
    assert done.returncode == 2
    assert done.stderr.startswith("umbel: there is no queue 'celerie'")
    assert done.stderr.count("\n") == 1
