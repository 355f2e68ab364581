"""``umbel bindings`` on every broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.brokers import BROKERS, project_on

TASKS = """
from umbel import Exchange, Queue, Umbel

app = Umbel("tasks")
app.conf.task_queues = [Queue("pictures", Exchange("files", "topic"), routing_key="image.#")]


@app.task(exchange="files", routing_key="image.png")
def seen():
    pass
"""


@pytest.mark.parametrize("broker", BROKERS)
def test_it_shows_what_leads_where(
    tmp_path: Path, broker: str, request: pytest.FixtureRequest
) -> None:
    project = project_on(broker, tmp_path, request, TASKS)
    project.out("call", "tasks.seen")
    shown = project.out("bindings").splitlines()
    assert [line.split() for line in shown] == [
        ["exchange", "routing", "key", "queue"],
        ["files", "image.#", "pictures"],
    ]
    (row,) = json.loads(project.out("bindings", "--json"))
    assert row == {"exchange": "files", "routing key": "image.#", "queue": "pictures"}
