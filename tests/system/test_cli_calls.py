"""``umbel call``, ``result`` and ``purge``, with a real worker where one is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.projects import Project

TASKS = """
from umbel import Umbel

app = Umbel("tasks")


@app.task
def echo(value, *, times=1):
    return value if times == 1 else [value] * times


@app.task
def fail():
    raise ValueError("on purpose")


@app.task(bind=True)
def step(self):
    self.update_state(state="HALFWAY", meta={"done": 50})
    raise self.retry(countdown=3600)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with tasks."""
    return Project(tmp_path, TASKS)


@pytest.fixture
def served(project: Project) -> Iterator[Project]:
    """The project, with a worker."""
    with project.worker("worker", "-A", "tasks", "-c", "1"):
        yield project


def test_values_are_printed_for_people_and_as_data(served: Project) -> None:
    task_id = served.out("call", "tasks.echo", "-a", '["text"]')
    assert served.out("result", task_id, "--wait") == "text"
    task_id = served.out("call", "tasks.echo", "-a", '[{"a": 1}]', "-k", '{"times": 2}')
    assert served.out("result", task_id, "--wait", "--timeout", "20") == "[{'a': 1}, {'a': 1}]"
    found = json.loads(served.out("result", task_id, "--json"))
    assert found["result"] == [{"a": 1}, {"a": 1}]
    assert found["state"] == "SUCCESS"
    assert found["date_done"].startswith("20")


def test_a_failure_is_code_1_and_has_a_traceback(served: Project) -> None:
    task_id = served.out("call", "tasks.fail")
    done = served.umbel("result", task_id, "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "umbel: FAILURE: ValueError('on purpose')\n"
    done = served.umbel("result", task_id, "--traceback")
    assert done.returncode == 1
    assert 'raise ValueError("on purpose")' in done.stdout
    found = json.loads(served.umbel("result", task_id, "--json").stdout)
    assert (found["state"], found["result"]) == ("FAILURE", "ValueError('on purpose')")


def test_what_is_not_ready_is_code_1(served: Project) -> None:
    done = served.umbel("result", "unknown")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "umbel: unknown is not ready, its state is PENDING\n"
    done = served.umbel("result", "unknown", "--timeout", "0.1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["state"] == "PENDING"


def test_the_tasks_own_name_may_be_given(served: Project) -> None:
    task_id = served.out("call", "tasks.echo", "-a", "[1]")
    served.out("result", task_id, "--wait")
    assert served.out("-A", "tasks", "result", task_id, "-t", "tasks.echo") == "1"
    done = served.umbel("-A", "tasks", "result", task_id, "-t", "tasks.ecko")
    assert done.returncode == 2
    assert "no task named 'tasks.ecko'; did you mean 'tasks.echo'?" in done.stderr


def test_a_call_waits_until_it_is_due(served: Project) -> None:
    late = served.out("call", "tasks.echo", "-a", "[1]", "--countdown", "3600")
    later = served.out("call", "tasks.echo", "-a", "[1]", "--eta", "2999-01-01T00:00")
    gone = served.out("call", "tasks.echo", "-a", "[1]", "--expires", "2001-01-01T00:00+00:00")
    done = served.umbel("result", gone, "--wait")
    assert done.returncode == 1
    assert done.stderr.startswith("umbel: REVOKED: ")
    for task_id in (late, later):
        assert served.umbel("result", task_id).returncode == 1


def test_ids_may_be_had_as_data(project: Project) -> None:
    found = json.loads(project.out("call", "anything", "--json"))
    assert found["task"] == "anything"
    assert len(found["task_id"]) == 36


def test_wrong_arguments_are_told_before_anything_is_sent(project: Project) -> None:
    done = project.umbel("-A", "tasks", "call", "tasks.echo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "echo() missing a required argument: 'value'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_that_the_application_does_not_know_is_noted_and_sent(project: Project) -> None:
    done = project.umbel("-A", "tasks", "call", "tasks.ecko")
    assert done.returncode == 0
    assert done.stderr == (
        "umbel: note: the application has no task 'tasks.ecko'; did you mean 'tasks.echo'?\n"
    )


def test_a_broker_that_is_not_there_is_one_line(project: Project) -> None:
    fast = {"UMBEL_TASK_PUBLISH_TIMEOUT": "0.2"}
    done = project.umbel("call", "x", "-b", "redis://127.0.0.1:1", environment=fast)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr


# --- purge


def test_purge_asks_and_tells(project: Project) -> None:
    for _ in range(3):
        project.out("call", "tasks.echo", "-a", "[1]")
    project.out("call", "tasks.echo", "-a", "[1]", "--countdown", "60")
    done = project.umbel("purge", answer="n\n")
    assert done.returncode == 1
    assert "celery: 3 ready, 1 delayed" in done.stderr
    assert done.stderr.endswith("umbel: nothing was deleted\n")
    assert done.stdout == ""
    assert project.umbel("purge", answer="y\n").stdout == "Deleted 4 messages from celery.\n"
    assert project.out("purge") == "Deleted 0 messages from celery."


def test_purge_asks_nobody_when_nobody_can_answer(project: Project) -> None:
    project.out("call", "tasks.echo", "-a", "[1]")
    done = project.umbel("purge")
    assert done.returncode == 2
    assert "-f deletes without asking" in done.stderr
    assert project.out("purge", "--force") == "Deleted 1 message from celery."


def test_purge_takes_the_queues_it_is_told(project: Project) -> None:
    for queue in ("mail", "pictures", "mail"):
        project.out("call", "tasks.echo", "-a", "[1]", "--queue", queue)
    found = json.loads(
        project.out("purge", "-f", "-Q", "mail,pictures", "-X", "pictures", "--json")
    )
    assert found == {"deleted": 2, "queues": ["mail"]}
    assert project.out("purge", "-f", "-Q", "pictures") == "Deleted 1 message from pictures."


def test_purge_knows_which_queues_there_are(project: Project) -> None:
    project.out("call", "tasks.echo", "-a", "[1]", "--queue", "mail")
    done = project.umbel("purge", "-f", "-Q", "mial")
    assert done.returncode == 2
    assert "there is no queue 'mial'; did you mean 'mail'?" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("queues",), ("status",), ("why", "x"), ("revoke", "x"), ("dead", "list"), ("top", "--once")],
    ids=" ".join,
)
def test_looking_at_a_broker_that_is_not_there_is_one_line(
    project: Project, arguments: tuple[str, ...]
) -> None:
    done = project.umbel(*arguments, "-b", "redis://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("umbel: cannot connect to redis://127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1
    done = project.umbel(*arguments, "-b", "redis://127.0.0.1:1", "--traceback")
    assert "Traceback" in done.stderr


def test_the_id_may_be_chosen(project: Project) -> None:
    assert project.out("call", "tasks.echo", "-a", "[1]", "--task-id", "mine") == "mine"
