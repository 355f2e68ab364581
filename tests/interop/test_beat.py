"""A Celery worker runs what an umbel scheduler sends, and a Celery client asks whether it lives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.interop.fleet import PATIENCE, celery_client, new_fleet, umbel_client, until
from tests.system.projects import Project
from umbel.beat import scheduler_for


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_celery_runs_what_is_due(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url, results = request.getfixturevalue(f"{broker}_url"), request.getfixturevalue("redis_url")
    fleet = new_fleet(url, tmp_path, results=results)
    with fleet.worker("celery", "-c", "1"), umbel_client(url, results) as app:
        app.conf.beat_schedule = {
            "sum": {"task": "fleet.add", "schedule": 0.2, "args": (1, 2), "overlap": "skip"},
            "side": {"task": "fleet.who", "schedule": 0.2},
        }
        scheduler = scheduler_for(app, "beat")

        def runs() -> dict[str, str]:
            scheduler.turn()
            states = {shown.entry.name: shown.state for shown in app.schedule.list()}
            return {name: each.task_id for name, each in states.items() if each and each.runs > 1}

        until(lambda: len(runs()) == 2)
        ids = runs()
        assert app.AsyncResult(ids["side"]).get(timeout=PATIENCE) == "celery"
        assert app.AsyncResult(ids["sum"]).get(timeout=PATIENCE) == 3


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_celery_asks_a_scheduler_in_the_background_whether_it_lives(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url, results = request.getfixturevalue(f"{broker}_url"), request.getfixturevalue("redis_url")
    project = Project(tmp_path)
    project.environment.update(UMBEL_BROKER_URL=url, UMBEL_BEAT_ENABLE_REMOTE_CONTROL="yes")
    project.write("tasks.py", "from umbel import Umbel\napp = Umbel('tasks')\n")
    options = ("-n", "beat@here", "--pidfile", "%n.pid", "--logfile", "%n.log", "-D")
    project.out("beat", "-A", "tasks", *options)
    pidfile = project.folder / "beat.pid"
    pid = int(pidfile.read_text())
    try:
        with celery_client(url, results) as app:
            until(lambda: app.control.ping(["beat@here"], 1.0) == [{"beat@here": {"ok": "pong"}}])
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not pidfile.exists())
    log = project.folder / "beat.log"
    until(lambda: "beat@here stopped." in log.read_text())
    assert "beat@here leads" in log.read_text()
