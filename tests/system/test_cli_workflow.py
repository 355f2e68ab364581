"""``umbel workflow``, with a real worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.projects import Project

TASKS = """
from umbel import Umbel, chord, group

app = Umbel("tasks", result_extended=True)


@app.task
def add(x, y=1):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def broken(_):
    raise ValueError("on purpose")
"""
SEND = """
from tasks import *

workflow = add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(1)
result = workflow.apply_async()
assert result.get(timeout=60) == 8
later = (add.s(1, 1) | add.s(1).set(queue="nobody")).apply_async()
later.parent.get(timeout=60)
print(result.id, later.id, later.parent.id)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, TASKS)
    project.write("send.py", SEND)
    with project.worker("worker", "-A", "tasks", "-c", "1"):
        yield project


def sent(project: Project) -> list[str]:
    """Send two workflows; return the ids of the first's last task, the second's last and first."""
    done = subprocess.run(
        [sys.executable, "send.py"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_workflow_is_shown_as_a_tree(project: Project) -> None:
    last, later, first = sent(project)
    lines = project.out("workflow", last).splitlines()
    shown = [line.split() for line in lines]
    assert [(words[0], words[-1]) for words in shown if words[0] != "group"] == [
        ("SUCCESS", "tasks.add"),
        ("SUCCESS", "tasks.add"),
        ("SUCCESS", "tasks.add"),
        ("SUCCESS", "tasks.total"),
        ("SUCCESS", "tasks.add"),
    ]
    assert [line.startswith("  ") for line in lines] == [False, True, True, True, True, True]
    assert lines[1].split()[:3] == ["group", "of", "2"]
    assert project.out("workflow", last, "--dot").startswith("digraph workflow {")
    waiting = project.out("workflow", first).splitlines()
    assert waiting[-1].startswith(f"waits for {later}: no worker consumes queue nobody")


def test_it_is_followed_until_its_end(project: Project) -> None:
    _, later, first = sent(project)
    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(project.out, "workflow", first, "--follow", "-i", "0.1")
        with project.worker("worker", "-A", "tasks", "-c", "1", "-Q", "nobody"):
            out = following.result(30)
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["SUCCESS", first],
        ["SUCCESS", later],
    ]
