"""A worker of several processes tells of an outage once, whichever of its servers is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import redis_server
from tests.system.projects import Project, eventually
from umbel import Umbel

pytestmark = pytest.mark.servers

TASKS = """
from umbel import Umbel

app = Umbel("tasks", worker_lease=3.0)


@app.task
def add(x, y):
    return x + y
"""


@pytest.mark.parametrize("gone", ["broker", "result store"])
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_an_outage_is_told_once_by_a_worker_and_not_by_each_process(
    tmp_path: Path, server_directory: Path, gone: str, pool: str
) -> None:
    # Given a worker, busy, on a server that dies
    project = Project(tmp_path, TASKS)
    with redis_server(server_directory) as redis:
        project.environment["UMBEL_RESULT_BACKEND"] = redis.url
        broker = redis.url if gone == "broker" else f"sqlite:///{tmp_path}/broker.sqlite"
        project.environment["UMBEL_BROKER_URL"] = broker
        options = ("worker", "-A", "tasks", "-c", "4", "-P", pool)
        with (
            project.worker(*options) as worker,
            Umbel("client", broker=broker, result_backend=redis.url, set_as_current=False) as app,
        ):
            assert app.send_task("tasks.add", (1, 1)).get(timeout=60) == 2
            redis.kill()
            if gone == "result store":
                for number in range(8):
                    app.send_task("tasks.add", (number, 1), task_id=f"call-{number}")
            eventually(worker.log.read_text, lambda log: "does not answer" in log)
            # When it is back
            redis.start()
            log = eventually(worker.log.read_text, lambda log: "answer again after" in log)
            # Then it works, and has told of it once
            assert app.send_task("tasks.add", (2, 2)).get(timeout=60) == 4
            if gone == "result store":
                for number in range(8):
                    assert app.AsyncResult(f"call-{number}").get(timeout=60) == number + 1
    log = worker.log.read_text()
    assert log.count("does not answer") == log.count("answer again after") == 1, log
    assert "Traceback" not in log
