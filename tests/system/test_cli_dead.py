"""``umbel dead``: list, show, requeue and drop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.brokers import project_on
from tests.system.projects import Project, eventually

TASKS = """
import os

from umbel import Umbel
from umbel.exceptions import Reject

app = Umbel("tasks")


@app.task
def refuse(why):
    if os.path.exists("healed"):
        return why
    raise Reject(why)


@app.task
def shun(*, why):
    raise Reject(why)
"""


@pytest.fixture(params=["sqlite", "redis", "rabbitmq+redis"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    return project_on(request.param, tmp_path, request, TASKS)


def letters(project: Project, *arguments: str) -> list[dict[str, Any]]:
    found = json.loads(project.out("dead", "list", "--json", *arguments))
    assert isinstance(found, list)
    return found


def bury(project: Project) -> tuple[str, str, str]:
    """Make three dead letters; return their ids."""
    one = project.out("call", "tasks.refuse", "-a", '["too hot"]')
    two = project.out("call", "tasks.refuse", "-a", '["too cold"]')
    three = project.out("call", "tasks.shun", "-k", '{"why": "too wet"}')
    with project.worker("worker", "-c", "1"):
        eventually(lambda: letters(project), lambda found: len(found) == 3)
    return one, two, three


def test_listed_and_shown(project: Project) -> None:
    one, two, three = bury(project)
    # By task, reason, queue, time and id
    assert [each["task_id"] for each in letters(project)] == [one, two, three]
    for arguments, expected in (
        (["-t", "tasks.shun"], [three]),
        (["-t", "tasks.r*"], [one, two]),
        (["--reason", "COLD"], [two]),
        (["-Q", "celery", "--limit", "2"], [one, two]),
        (["-Q", "other"], []),
        (["--since", "1h"], [one, two, three]),
        (["--since", "2999-01-01"], []),
        (["--older-than", "1h"], []),
        (["--older-than", "2999-01-01"], [one, two, three]),
        ([three, "unknown"], [three]),
    ):
        assert [each["task_id"] for each in letters(project, *arguments)] == expected, arguments
    lines = project.out("dead", "list").splitlines()
    assert lines[0].split() == ["id", "task", "queue", "died", "reason"]
    assert lines[1].split()[:3] == [one, "tasks.refuse", "celery"]
    assert "too hot" in lines[1]
    # One of them
    page = project.out("dead", "show", three)
    assert "kwargs:    {'why': 'too wet'}" in page
    shown = json.loads(project.out("dead", "show", one, "--json"))
    assert (shown["args"], shown["task"]) == (["too hot"], "tasks.refuse")
    done = project.umbel("dead", "show", "unknown")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "umbel: there is no dead letter of the task unknown\n"


def test_requeued_they_run_again(project: Project) -> None:
    one, two, three = bury(project)
    project.write("healed", "")
    assert project.out("dead", "requeue", "-t", "tasks.refuse") == "Requeued 2 dead letters."
    with project.worker("worker", "-c", "1"):
        assert project.out("result", one, "--wait") == "too hot"
        assert project.out("result", two, "--wait") == "too cold"
    assert [each["task_id"] for each in letters(project)] == [three]


def test_dropped_only_when_one_agrees(project: Project) -> None:
    one, two, _ = bury(project)
    done = project.umbel("dead", "drop", one, two, answer="n\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Delete 2 dead letters for ever?" in done.stderr
    assert project.umbel("dead", "drop", one).returncode == 2  # nobody is there to be asked
    assert project.umbel("dead", "drop", one, answer="y\n").stdout == "Deleted 1 dead letter.\n"
    assert project.umbel("dead", "drop").returncode == 2  # which ones?
    assert json.loads(project.out("dead", "drop", "-f", "--all", "--json")) == {"dropped": 2}
    assert letters(project) == []
    done = project.umbel("dead", "drop", one, "-f")
    assert done.stderr == f"umbel: note: no such dead letter: {one}\n"


def test_a_wrong_time_is_one_line(project: Project) -> None:
    done = project.umbel("dead", "list", "--since", "yesterday")
    assert done.returncode == 2
    assert "expected 2h, 30min, 7d or a date" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("list",), ("requeue", "--all"), ("drop", "--all")])
def test_a_broker_without_ledger_says_what_is_missing(
    tmp_path: Path, request: pytest.FixtureRequest, arguments: tuple[str, ...]
) -> None:
    project = project_on("rabbitmq", tmp_path, request, TASKS)
    done = project.umbel("dead", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "dead letters that can be listed need a ledger, and amqp://" in done.stderr
    assert done.stderr.count("\n") == 1
