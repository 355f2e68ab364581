"""``umbel revoke``: tasks that wait, and tasks that run, in every pool."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.system.brokers import project_on
from tests.system.projects import Project, eventually

TASKS = """
import asyncio
import os
import signal
import time

from umbel import Umbel

app = Umbel("tasks")


def note(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")


@app.task
def touch(path):
    note(path)


@app.task
def wait(path):
    note(path)
    while not os.path.exists("go"):
        time.sleep(0.02)
    return "went"


@app.task
def lead(path):
    wait(path)
    touch.delay("child")


@app.task
def clean_up(path):
    def leave(*_):
        note("cleaned")
        os._exit(3)

    signal.signal(signal.SIGUSR1, leave)
    note(path)
    time.sleep(60)


@app.task
async def dream(path):
    note(path)
    await asyncio.sleep(60)


@app.task
async def deny(path):
    note(path)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("denied")
"""

#: Brokers with a ledger, their own or that of the result store.
WITH_LEDGER = ("sqlite", "redis", "rabbitmq+redis")


@pytest.fixture(params=WITH_LEDGER)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    return project_on(request.param, tmp_path, request, TASKS)


@pytest.fixture
def plain(tmp_path: Path) -> Project:
    return Project(tmp_path, TASKS, UMBEL_APP="tasks")


def call(project: Project, task: str, path: str) -> str:
    return project.out("call", f"tasks.{task}", "-a", json.dumps([path]))


def begun(project: Project, path: str, times: int = 1) -> list[str]:
    """Wait until a task has begun so many times; return the pids of the processes."""
    file = project.folder / path
    return eventually(
        lambda: file.read_text().split() if file.exists() else [], lambda pids: len(pids) >= times
    )


def end_of(project: Project, task_id: str) -> str:
    """Wait for a task; return its state and error."""
    done = project.umbel("result", task_id, "--wait", "--timeout", "20")
    return done.stdout + done.stderr


def test_a_worker_that_starts_later_knows(project: Project) -> None:
    # Given two tasks, one of which is revoked while there is no worker
    one, two = call(project, "touch", "one"), call(project, "touch", "two")
    assert project.out("revoke", one) == "Revoked 1 task."
    # When
    with project.worker("worker", "-c", "1"):
        # Then
        assert end_of(project, one) == "umbel: REVOKED: TaskRevokedError('revoked')\n"
        assert end_of(project, two) == "None\n"
    assert not (project.folder / "one").exists()


def test_many_from_the_input(project: Project) -> None:
    ids = [call(project, "touch", "many") for _ in range(3)]
    done = project.umbel("revoke", ids[0], "-", "--json", answer="\n".join(ids[1:]))
    assert json.loads(done.stdout) == {"revoked": 3}
    with project.worker("worker", "-c", "1"):
        assert all("REVOKED" in end_of(project, each) for each in ids)


def test_a_revocation_may_end(project: Project) -> None:
    one = call(project, "touch", "one")
    assert project.out("revoke", one, "--expires", "0") == "Revoked 1 task."
    with project.worker("worker", "-c", "1"):
        assert end_of(project, one) == "None\n"


def test_what_runs_goes_on_unless_it_is_terminated(project: Project) -> None:
    with project.worker("worker", "-c", "1") as worker:
        # Given
        one = call(project, "wait", "one")
        (pid,) = begun(project, "one")
        # When
        project.out("revoke", one)
        project.out("revoke", call(project, "touch", "never"))
        # Then
        assert "PENDING" in end_after(project, one, 1.5)
        # When
        project.out("revoke", "--terminate", one)
        # Then its process ends, and another takes its place
        assert end_of(project, one) == "umbel: REVOKED: TaskRevokedError('terminated')\n"
        assert end_of(project, call(project, "touch", "two")) == "None\n"
        assert begun(project, "two") != [pid]
        assert begun(project, "one") == [pid]
        assert "is terminated by" in worker.log.read_text()
    assert not (project.folder / "never").exists()


def test_all_that_a_task_will_send_may_be_called_off(project: Project) -> None:
    with project.worker("worker", "-c", "1"):
        # Given a task that runs, and has sent nothing yet
        one = call(project, "lead", "one")
        begun(project, "one")
        # When
        assert project.out("revoke", "--root", one) == "Revoked 1 task."
        project.write("go", "")
        # Then it goes on, but what it sends does not run
        shown = eventually(
            lambda: project.out("workflow", one), lambda text: "waits" not in text and "\n" in text
        )
        assert [line.split()[0] for line in shown.splitlines()] == ["SUCCESS", "REVOKED"]
    assert not (project.folder / "child").exists()


def end_after(project: Project, task_id: str, seconds: float) -> str:
    return project.umbel("result", task_id, "--timeout", str(seconds)).stderr


def test_a_signal_lets_it_clean_up(plain: Project) -> None:
    with plain.worker("worker", "-c", "1"):
        one = call(plain, "clean_up", "one")
        begun(plain, "one")
        plain.out("revoke", "-t", "-s", "USR1", one)
        assert "TaskRevokedError('terminated')" in end_of(plain, one)
    assert len(begun(plain, "cleaned")) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_coroutine_is_cancelled_and_its_process_lives(plain: Project, pool: str) -> None:
    with plain.worker("worker", "-c", "1", "-P", pool):
        ids = [call(plain, "dream", "one") for _ in range(3)]
        pid, *_ = begun(plain, "one", 3)
        plain.out("revoke", "-t", *ids[:2])
        for each in ids[:2]:
            assert "TaskRevokedError('terminated')" in end_of(plain, each)
        assert "PENDING" in end_after(plain, ids[2], 0.1)
        os.kill(int(pid), 0)
        plain.out("revoke", "-t", ids[2])
        assert "TaskRevokedError('terminated')" in end_of(plain, ids[2])


def test_a_coroutine_that_denies_its_end_is_ended_with_its_process(plain: Project) -> None:
    with plain.worker("worker", "-c", "1"):
        # Given an innocent beside it
        one, two = call(plain, "deny", "one"), call(plain, "dream", "two")
        begun(plain, "one")
        begun(plain, "two")
        plain.out("revoke", "-t", one)
        assert "TaskRevokedError('terminated')" in end_of(plain, one)
        # Then the innocent begins again, uncharged
        assert len(set(begun(plain, "two", 2))) == 2
        plain.out("revoke", "-t", two)
        assert "TaskRevokedError('terminated')" in end_of(plain, two)
    assert len(begun(plain, "denied")) >= 1


def test_a_thread_runs_on(plain: Project) -> None:
    with plain.worker("worker", "-c", "2", "-P", "threads") as worker:
        one = call(plain, "wait", "one")
        begun(plain, "one")
        plain.out("revoke", "-t", one)
        eventually(worker.log.read_text, lambda text: "which nobody can end" in text)
        plain.write("go", "")
        assert end_of(plain, one) == "went\n"


def test_a_broker_without_ledger_says_what_is_missing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_on("rabbitmq", tmp_path, request, TASKS)
    done = project.umbel("revoke", "some-id")
    assert (done.returncode, done.stdout) == (1, "")
    assert "revocations need a ledger, and amqp://" in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_options_are_one_line(plain: Project) -> None:
    for arguments, words in (
        (("-s", "NOPE", "x"), "expected a signal such as TERM, got 'NOPE'"),
        (("--expires", "soon", "x"), "expected 7d, 12h, 30min or seconds, got 'soon'"),
    ):
        done = plain.umbel("revoke", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
