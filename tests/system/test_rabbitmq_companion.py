"""RabbitMQ with a ledger in an SQLite file: crash budget, verdicts, revocation, dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.projects import Project, eventually
from umbel import Umbel
from umbel.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError

TASKS = """
import os, signal, time
from umbel import Umbel

app = Umbel("tasks", broker="{broker}", ledger_url="sqlite:///ledger.sqlite")

def note(what):
    with open("runs", "a") as runs:
        runs.write(what + "\\n")

@app.task
def killer():
    note("killer")
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(time_limit=0.5)
def slow():
    note("slow")
    time.sleep(60)

@app.task
def quick():
    note("quick")
"""


@pytest.fixture
def project(rabbitmq_url: str, tmp_path: Path) -> Project:
    return Project(tmp_path, TASKS.format(broker=rabbitmq_url))


@pytest.fixture
def app(rabbitmq_url: str, project: Project) -> Iterator[Umbel]:
    ledger_url = f"sqlite:///{project.folder}/ledger.sqlite"
    with Umbel("client", rabbitmq_url, ledger_url=ledger_url, set_as_current=False) as app:
        yield app


def runs(project: Project, task: str) -> int:
    path = project.folder / "runs"
    return path.read_text().split().count(task) if path.exists() else 0


def test_a_task_that_kills_its_worker_ends_among_the_dead_letters_of_the_companion(
    project: Project, app: Umbel
) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "2"):
        results = [app.send_task("tasks.quick") for _ in range(50)]
        killer = app.send_task("tasks.killer")
        with pytest.raises(WorkerLostError, match=r"died [34] times"):
            killer.get(timeout=60)
        for result in results:
            result.get(timeout=60)
        # One more than its budget if the word of a death came late.
        assert runs(project, "killer") in (3, 4)
        ledger = app.servers().ledger
        assert ledger is not None
        # The result is stored before the end of its message.
        (letter,) = eventually(ledger.dead_letters, bool)
        assert (letter.message.id, letter.queue) == (killer.id, "celery")
        # And back it goes, with its counts at zero.
        assert ledger.requeue([letter.key]) == 1
        eventually(lambda: runs(project, "killer"), lambda count: count >= 6)
        eventually(lambda: len(ledger.dead_letters()), lambda count: count == 1)


def test_a_hard_limit_ends_a_task_once(project: Project, app: Umbel) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "2"):
        slow = app.send_task("tasks.slow")
        with pytest.raises(TimeLimitExceeded):
            slow.get(timeout=60)
    assert runs(project, "slow") == 1


def test_what_was_revoked_before_a_worker_started_does_not_run(
    project: Project, app: Umbel
) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1"):
        app.send_task("tasks.quick").get(timeout=60)  # the queue exists from now on
    revoked, wanted = app.send_task("tasks.quick"), app.send_task("tasks.quick")
    revoked.revoke()
    with project.worker("worker", "-A", "tasks", "-c", "1"):
        wanted.get(timeout=60)
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=60)
    assert runs(project, "quick") == 2
