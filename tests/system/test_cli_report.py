"""``umbel report``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.projects import Project
from umbel import Umbel

TASKS = """
from umbel import Umbel

app = Umbel("shop", broker="redis://user:hidden@localhost:1/0", result_backend="redis://h/1")
app.conf.worker_prefetch_multiplier = 1
app.conf.task_routes = {
    "a.*": {"queue": "a"}, "b.*": {"queue": "b"}, "c.*": {"queue": "c"}, "d.*": {"queue": "d"},
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, TASKS)
    project.write("pyproject.toml", "[tool.umbel]\ntimezone = 'Europe/Rome'\n")
    return project


def test_each_setting_that_was_set_has_its_source(project: Project) -> None:
    shown = project.out("report", "-A", "tasks")
    lines = {line.split()[0]: " ".join(line.split()) for line in shown.splitlines() if line}
    assert lines["application:"] == "application: shop"
    assert lines["broker:"] == "broker: redis://user:**@localhost:1/0"
    assert lines["results:"] == "results: redis://h/1"
    assert lines["broker_url"] == (
        "broker_url 'redis://user:********@localhost:1/0' the program, tasks.py, line 4"
    )
    assert lines["timezone"] == "timezone 'Europe/Rome' pyproject.toml, line 2"
    assert lines["worker_prefetch_multiplier"].endswith("tasks.py, line 5; no effect")
    assert "…" in lines["task_routes"]
    assert "umbel:" in lines
    assert "hidden" not in shown
    assert "task_acks_late" not in shown
    assert "task_acks_late" in project.out("report", "-A", "tasks", "--all")


def test_as_data(project: Project) -> None:
    found = json.loads(project.out("report", "-A", "tasks", "--json"))
    assert found["settings"]["worker_prefetch_multiplier"] == {
        "value": 1,
        "default": 4,
        "source": f"the program, {project.folder}/tasks.py, line 5",
        "effect": "none",
    }
    assert found["settings"]["task_routes"]["value"]["d.*"] == {"queue": "d"}
    everything = json.loads(project.out("report", "-A", "tasks", "--json", "--all"))
    assert len(everything["settings"]) > 200
    assert everything["settings"]["security_digest"]["effect"] == "missing"


def test_a_server_that_cannot_be_opened_is_reported(project: Project) -> None:
    project.write("tasks.py", "from umbel import Umbel\napp = Umbel(broker='nothing://here')\n")
    shown = project.out("report", "-A", "tasks")
    assert "cannot be opened: cannot open 'nothing'" in shown
    assert "nothing://here" in shown


def test_without_anything_set(project: Project) -> None:
    project.write("pyproject.toml", "")
    assert project.out("report").endswith("Every setting has its default.")


def test_the_report_of_an_application() -> None:
    app = Umbel("shop", broker="redis://:hidden@h", set_as_current=False)
    lines = app.bugreport().splitlines()
    assert "application: shop" in lines
    assert "broker_url: 'redis://:********@h'" in lines
