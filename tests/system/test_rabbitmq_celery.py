"""A real Celery on the other side, over RabbitMQ with rpc results, both ways."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.chaos.harness import Chaos, worker
from umbel import Umbel

pytestmark = pytest.mark.timeout(90)

CELERY = """
import os, sys
from celery import Celery

app = Celery("real", broker=os.environ["BROKER"], backend="rpc://")
app.conf.broker_connection_retry_on_startup = True

@app.task
def add(x, y):
    return x + y

@app.task
def fail():
    raise ValueError("as asked")
"""

CALLER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from real import app

print(app.send_task("chaos.work", (21,), queue="celery").get(timeout=20))
began = time.time()
print(app.send_task("chaos.work", (2,), countdown=1.3).get(timeout=20))
print(1.2 < time.time() - began < 4)
print(app.send_task("chaos.work", (3,), soft_time_limit=0.5, time_limit=2.5).get(timeout=20))
"""


@pytest.fixture
def celery(tmp_path: Path) -> Path:
    """The folder of Celery's application."""
    (tmp_path / "real.py").write_text(CELERY)
    return tmp_path


@pytest.fixture
def app(rabbitmq_url: str) -> Iterator[Umbel]:
    with Umbel("client", broker=rabbitmq_url, set_as_current=False) as app:
        yield app


def test_a_celery_client_is_served(rabbitmq_url: str, celery: Path) -> None:
    with worker(Chaos(rabbitmq_url, celery, {}, concurrency=1)):
        done = subprocess.run(
            [sys.executable, "-c", CALLER, str(celery)],
            env={**os.environ, "BROKER": rabbitmq_url},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["42", "4", "True", "6"]


def test_a_celery_worker_serves(app: Umbel, rabbitmq_url: str, celery: Path) -> None:
    words = ["-m", "celery", "-A", "real", "worker", "-c", "1", "-l", "WARNING"]
    with (celery / "celery.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=celery,
            env={**os.environ, "BROKER": rabbitmq_url},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        assert app.send_task("real.add", (1, 2)).get(timeout=40) == 3
        with pytest.raises(ValueError, match="as asked"):
            app.send_task("real.fail").get(timeout=20)
        results = [app.send_task("real.add", (n, n)) for n in range(100)]
        assert [result.get(timeout=20) for result in results] == [2 * n for n in range(100)]
    finally:
        process.terminate()
        process.wait(30)
