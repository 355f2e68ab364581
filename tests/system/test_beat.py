"""Schedulers as users run them: on each broker, in processes of their own and in workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Server, running
from tests.system.brokers import project_on
from tests.system.projects import UMBEL, Project, eventually
from umbel import Umbel

TASKS = """
from umbel import Umbel

app = Umbel("shop")

@app.task
def note(word):
    with open("notes", "a") as notes:
        notes.write(word + "\\n")

app.conf.beat_schedule = {
    "often": {"task": "tasks.note", "schedule": 0.2, "args": ["often"]},
    "seldom": {"task": "tasks.note", "schedule": 86400.0, "args": ["seldom"]},
}
"""


def beat(project: Project, name: str = "beat", *options: str) -> Server:
    log = project.folder / f"{name}.log"
    return Server(
        [*UMBEL, "beat", "-n", f"{name}@here", *options],
        url=name,
        log=log,
        ready=lambda: " ready." in log.read_text(),
        environment=project.environment,
        directory=project.folder,
    )


def notes(project: Project) -> list[str]:
    path = project.folder / "notes"
    return path.read_text().split() if path.exists() else []


def more(project: Project) -> Callable[[], bool]:
    """Return what tells whether more notes were written since now."""
    before = len(notes(project))
    return lambda: len(notes(project)) > before + 2


def wait_for(look: Callable[[], bool], patience: float = 60.0) -> None:
    eventually(look, bool, patience)


@pytest.mark.parametrize("broker", ["sqlite", "redis", "rabbitmq+redis"])
def test_a_worker_sends_and_runs_what_is_due(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_on(broker, tmp_path, request, TASKS)
    with project.worker("worker", "--beat", "-q", "-c", "1"):
        wait_for(more(project))
        project.out("schedule", "add", "dynamic", "tasks.note", "every 0.3 s", "--args", '["new"]')
        wait_for(lambda: "new" in notes(project))
        listed = json.loads(project.out("schedule", "list", "--json"))
        assert listed["leader"].startswith("umbel@")
        facts = {each["name"]: each for each in listed["entries"]}
        assert facts["often"]["outcome"] in ("SUCCESS", "PENDING")
        assert facts["dynamic"]["from"] == "added"
        assert not facts["seldom"]["last run"]
        assert project.out("schedule", "pause", "often", "dynamic").count("paused") == 2
        task_id = project.out("schedule", "run", "seldom")
        wait_for(lambda: "seldom" in notes(project))
        assert project.out("result", task_id) == "None"
    assert project.out("schedule", "remove", "dynamic") == "dynamic is removed"


def test_on_rabbitmq_alone_one_sends_what_the_code_has(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_on("rabbitmq", tmp_path, request, TASKS)
    with running(beat(project, "first")) as first, running(beat(project, "second")):
        with project.worker("worker", "-q", "-c", "1"):
            wait_for(more(project))
            assert "leads" not in (project.folder / "second.log").read_text()
            first.kill()
            wait_for(lambda: "leads" in (project.folder / "second.log").read_text())
            wait_for(more(project))
        refused = project.umbel("schedule", "pause", "often")
        assert refused.returncode == 1
        assert "set ledger_url" in refused.stderr


@pytest.mark.parametrize("broker", ["sqlite", "redis"])
def test_another_takes_over_from_the_dead(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_on(broker, tmp_path, request, TASKS)
    with running(beat(project, "first")) as first, running(beat(project, "second")):
        first.kill()
        wait_for(lambda: "leads" in (project.folder / "second.log").read_text())


STOPS = """
import os, signal, sys
from tasks import app
from umbel.beat import scheduler_for

made = scheduler_for(app, "sleeper")
advance = made._timetable.advance

def stop_first(table, ticks, *, token):
    if any(tick.message for tick in ticks) and not os.path.exists("slept"):
        open("slept", "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
    return advance(table, ticks, token=token)

made._timetable.advance = stop_first
made.run(lambda: not os.path.exists("end"))
"""


@pytest.mark.parametrize("broker", ["sqlite", "redis"])
def test_a_leader_that_is_stopped_while_it_sends_sends_nothing_when_it_wakes(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Given a leader that is stopped between its look at the lease and the step that sends
    tasks = TASKS.replace('"schedule": 0.2', '"schedule": 0.2, "missed": "all"')
    project = project_on(broker, tmp_path, request, tasks)
    project.environment["UMBEL_BEAT_LEASE"] = "1"
    environment = {**os.environ, **project.environment}
    command = [sys.executable, "-c", STOPS]
    with subprocess.Popen(
        command, cwd=project.folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as sleeper:
        wait_for((project.folder / "slept").exists)
        # When another leads for a while, and the first one wakes
        with running(beat(project)):
            log = project.folder / "beat.log"
            wait_for(lambda: "leads" in log.read_text())
            with Umbel("shop", broker=_broker(project), set_as_current=False) as app:
                transport = app.servers().broker.transport
                wait_for(lambda: transport.depth(["celery"])["celery"].ready > 5)
                sleeper.send_signal(signal.SIGCONT)
                ready = transport.depth(["celery"])["celery"].ready
                wait_for(lambda: transport.depth(["celery"])["celery"].ready > ready + 5)
                (project.folder / "end").touch()
                assert sleeper.stderr is not None
                told = sleeper.stderr.read()
                sleeper.wait(10)
                # Then it notices, and each message is there once
                consumer = transport.consume(["celery"], consumer_id="me", lease=60.0)
                ids = [each.message.id for each in consumer.receive(10_000, 5.0)]
                consumer.close()
    assert "leads no longer" in told
    assert len(ids) == len(set(ids)) > 10


def _broker(project: Project) -> str:
    given = project.environment.get("UMBEL_BROKER_URL")
    if given:
        return given
    listed = project.out("report")
    return next(word for word in listed.split() if word.startswith("sqlite://"))


def test_what_a_scheduler_cannot_be_is_said_in_one_line(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_on("sqlite", tmp_path, request, TASKS)
    for options, said in (
        (("beat", "-S", "django_celery_beat.schedulers:DatabaseScheduler"), "app.schedule.add"),
        (("beat", "-S", "nowhere:Source"), "cannot import 'nowhere:Source'"),
        (("worker", "-B", "--scheduler", "nowhere:Source"), "cannot import 'nowhere:Source'"),
        (("schedule", "add", "a", "t", "whenever"), "expected 'every 30 s'"),
        (("schedule", "add", "a", "t", "every 1 s", "--args", "{"), "--args: expected JSON"),
        (("schedule", "pause", "oftn"), "no entry 'oftn'; did you mean 'often'?"),
        (("schedule", "remove", "often"), "declared in the code"),
    ):
        done = project.umbel(*options)
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_source_of_ones_own_is_asked(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    project = project_on("sqlite", tmp_path, request, TASKS)
    project.write(
        "source.py",
        "class Source:\n"
        "    def __init__(self, app): self.app = app\n"
        "    def entries(self): return {'own': {'task': 'tasks.note', 'schedule': 0.2,"
        " 'args': ['own']}}\n"
        "    def revision(self): return 1\n",
    )
    with running(beat(project, "beat", "-S", "source:Source")), project.worker("worker", "-q"):
        wait_for(lambda: "own" in notes(project))


def test_dev_is_a_worker_with_a_scheduler_that_follows_the_code(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = project_on("sqlite", tmp_path, request, TASKS)
    with project.worker("dev", "-q", "-c", "1"):
        wait_for(more(project))
        project.write("tasks.py", TASKS.replace('["often"]', '["changed"]'))
        wait_for(lambda: "changed" in notes(project))
