"""``umbel why``: one test for each answer, on every broker.

RabbitMQ lets nobody look into its queues. There the answers come from results, ledger and nodes, if
the result store has a ledger; what cannot be known is said to be so.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.system.brokers import project_on
from tests.system.projects import Project, eventually
from umbel import Umbel

TASKS = """
import os
import time

from umbel import Umbel
from umbel.exceptions import Reject

app = Umbel("tasks")


@app.task
def nothing():
    pass


@app.task
def wait():
    while not os.path.exists("go"):
        time.sleep(0.02)


@app.task
def fail():
    raise ValueError("on purpose")


@app.task
def refuse():
    raise Reject("too hot")


@app.task(bind=True)
def again(self):
    raise self.retry(exc=OSError("down"), countdown=600)
"""

LOOKED_INTO = ("sqlite", "redis")
BROKERS = (*LOOKED_INTO, "rabbitmq+redis", "rabbitmq")


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def looks(broker: str) -> bool:
    """Whether one can look into its queues."""
    return broker in LOOKED_INTO


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path, broker: str) -> Project:
    return project_on(broker, tmp_path, request, TASKS)


def why(project: Project, *arguments: str) -> dict[str, Any]:
    found = json.loads(project.out("why", "--json", *arguments))
    assert isinstance(found, dict)
    return found


def reasons(project: Project, kind: str, *arguments: str) -> dict[str, Any]:
    """Ask until this is the answer."""
    return eventually(lambda: why(project, *arguments), lambda found: found["answer"] == kind)


def test_not_known_here(project: Project, looks: bool) -> None:  # noqa: FBT001 -- a fixture
    project.out("call", "tasks.nothing")
    found = why(project, "no-such-id")
    assert found["task_id"] == "no-such-id"
    if looks:
        assert found["answer"] == "unknown"
        assert "It is not known here" in project.out("why", "no-such-id")
    else:
        assert "is not known on this broker" in found["text"]


def test_no_worker_consumes_its_queue(project: Project, looks: bool) -> None:  # noqa: FBT001
    project.out("call", "tasks.nothing")
    sent = project.out("call", "tasks.nothing")
    found = why(project, sent)
    assert found["answer"] == "no-consumer"
    assert "no worker consumes queue celery" in found["text"]
    if looks:
        assert (found["queue"], found["ahead"]) == ("celery", 1)
        text = project.out("why", sent)
        assert text.startswith("No worker consumes queue celery; it is in queue celery behind ")
        assert " 1 other; the oldest waits " in text
    else:
        assert "ready: celery (about 2)" in found["text"]


def test_in_a_queue_behind_others(project: Project, looks: bool) -> None:  # noqa: FBT001
    with project.worker("worker", "-c", "1"):
        project.out("call", "tasks.wait")
        eventually(lambda: ready(project), lambda count: count == 0)
        *_, sent = [project.out("call", "tasks.nothing") for _ in range(3)]
        if looks:
            found = reasons(project, "ready", sent)
            assert (found["queue"], found["ahead"]) == ("celery", 2)
        else:
            assert "is not known on this broker" in why(project, sent)["text"]
        project.write("go", "")


def ready(project: Project) -> int:
    (found,) = json.loads(project.out("queues", "-Q", "celery", "--json"))
    return int(found["ready"])


def test_due_in_a_while(project: Project, looks: bool) -> None:  # noqa: FBT001
    with project.worker("worker", "-c", "1"):
        sent = project.out("call", "tasks.nothing", "--countdown", "600")
        found = reasons(project, "delayed" if looks else "not-known", sent)
        if looks:
            assert re.search(r"it is due in (10 min|9 min \d+ s), in queue celery", found["text"])
            assert found["due_at"] > 0
        else:
            assert "is not known on this broker" in found["text"]


def test_tried_again_later(project: Project, broker: str, looks: bool) -> None:  # noqa: FBT001
    with project.worker("worker", "-c", "1"):
        sent = project.out("call", "tasks.again")
        if broker == "rabbitmq":  # its results go to their callers
            assert "is not known on this broker" in why(project, sent)["text"]
            return
        kind = "delayed" if looks else "not-known"
        found = eventually(
            lambda: why(project, sent), lambda found: "OSError('down')" in found["text"]
        )
        assert found["answer"] == kind
        assert "it failed and is tried again: OSError('down')" in found["text"]


def test_held_and_running(project: Project, broker: str) -> None:
    with project.worker("worker", "-c", "1", "-n", "w1@%h"):
        sent = project.out("call", "tasks.wait")
        if broker == "rabbitmq":  # without a ledger nodes can tell nobody
            assert "is not known on this broker" in why(project, sent)["text"]
        else:
            found = reasons(project, "running", sent)
            assert found["node"].startswith("w1@")
            assert found["pid"] > 0
            assert f"worker {found['node']}, process {found['pid']}, for " in found["text"]
        project.write("go", "")


def test_held_by_somebody_who_has_not_begun(project: Project, looks: bool) -> None:  # noqa: FBT001
    sent = project.out("call", "tasks.nothing")
    shown = json.loads(project.out("report", "--json"))
    url = project.environment.get("UMBEL_BROKER_URL", shown["broker"])
    with Umbel("holder", broker=url, set_as_current=False) as app:
        transport = app.servers().broker.transport
        with closing(transport.consume(["celery"], consumer_id="holder", lease=600.0)) as consumer:
            assert consumer.receive(1, timeout=30.0)
            found = why(project, sent)
    if looks:
        assert found["answer"] == "held"
        assert "the consumer holder holds it, of which no living worker tells" in found["text"]
    else:
        assert "is not known on this broker" in found["text"]


def test_no_worker_knows_the_task(project: Project, broker: str) -> None:
    with project.worker("worker", "-c", "1"):
        sent = project.umbel("call", "tasks.new").stdout.strip()
        if broker == "rabbitmq":
            assert "is not known on this broker" in why(project, sent)["text"]
            return
        # RabbitMQ does not tell which task it is
        name = ("-t", "tasks.new") if "rabbitmq" in broker else ()
        found = reasons(project, "unknown-task", sent, *name)
        assert "no running worker knows task tasks.new" in found["text"]


def test_expired(project: Project, broker: str, looks: bool) -> None:  # noqa: FBT001
    sent = project.out("call", "tasks.nothing", "--expires", "2001-01-01T00:00+00:00")
    if looks:
        assert why(project, sent)["answer"] == "expired"
    with project.worker("worker", "-c", "1"):
        if broker == "rabbitmq":
            assert "is not known on this broker" in why(project, sent)["text"]
            return
        project.umbel("result", sent, "--wait")
    assert "it expired before a worker could run it" in why(project, sent)["text"]


def test_revoked_by_somebody(project: Project, broker: str) -> None:
    sent = project.out("call", "tasks.nothing")
    if broker == "rabbitmq":
        assert project.umbel("revoke", sent).returncode == 1
        return
    project.out("revoke", sent)
    for _ in range(2):
        found = why(project, sent)
        assert found["answer"] == "revoked"
        assert "it was revoked by " in found["text"]
        with project.worker("worker", "-c", "1"):
            project.umbel("result", sent, "--wait")


def test_a_dead_letter(project: Project, broker: str) -> None:
    sent = project.out("call", "tasks.refuse")
    with project.worker("worker", "-c", "1"):
        if broker == "rabbitmq":
            assert "is not known on this broker" in why(project, sent)["text"]
            return
        found = reasons(project, "dead", sent)
    assert "too hot" in found["text"]


@pytest.mark.parametrize(
    ("task", "text"),
    [("nothing", "it is done: it succeeded"), ("fail", "it is done: it failed")],
)
def test_done(project: Project, broker: str, task: str, text: str) -> None:
    sent = project.out("call", f"tasks.{task}")
    with project.worker("worker", "-c", "1"):
        if broker == "rabbitmq":
            assert "is not known on this broker" in why(project, sent)["text"]
            return
        found = reasons(project, "done", sent)
    assert text in found["text"]
