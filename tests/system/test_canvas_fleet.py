"""Workflows in a fleet of both kinds of workers on Redis, sent by either kind of client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.system import fleet
from tests.system.chaos.harness import wait_until
from tests.system.engines import running
from umbel import Umbel, chain, chord, group
from umbel.testing.probe import Probe
from umbel.worker.launch import Worker, WorkerOptions

ROOT = Path(__file__).parents[2]


@contextmanager
def both_workers(url: str, folder: Path) -> Generator[Umbel]:
    """Run a worker of Celery's for the queue "theirs", and one of ours for "ours"."""
    words = ["-m", "celery", "-A", "tests.system.fleet", "worker", "-Q", fleet.THEIRS, "-c", "2"]
    with (folder / "celery.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words, "-l", "WARNING"],
            cwd=ROOT,
            env={**os.environ, "FLEET": url},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with Umbel("fleet", broker=url, set_as_current=False) as app:
            for function in fleet.FUNCTIONS:
                app.task(name=f"fleet.{function.__name__}")(function)
            with running(app, lanes=2, queues=(fleet.OURS,)):
                yield app
    finally:
        process.terminate()
        process.wait(30)


def test_our_client(redis_url: str, tmp_path: Path) -> None:
    with both_workers(redis_url, tmp_path) as app:
        sent = [
            (workflow.apply_async(), expected)
            for workflow, expected in fleet.workflows(fleet.Parts(app, chain, group, chord))
        ]
        for number, (result, expected) in enumerate(sent):
            assert fleet.outcome(result) == expected, number


def test_a_celery_client(redis_url: str, tmp_path: Path) -> None:
    with both_workers(redis_url, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "tests.system.fleet"],
            cwd=ROOT,
            env={**os.environ, "FLEET": redis_url},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    for number, (found, expected) in enumerate(json.loads(done.stdout)):
        assert found == expected, number


def test_the_claim_of_a_celery_worker_that_died_is_taken_over(redis_url: str) -> None:
    # Given a chord of which Celery's worker counted the last member, claimed it, and died
    with Umbel("fleet", broker=redis_url, set_as_current=False) as app:
        for function in fleet.FUNCTIONS:
            app.task(name=f"fleet.{function.__name__}")(function)
        add, total = app.tasks["fleet.add"], app.tasks["fleet.total"]
        workflow = chord([add.s(1, 1), add.s(2, 2).set(queue="nobody")], total.s())
        result: Any = workflow.apply_async()
        with running(app):
            header = result.parent.results
            assert header[0].get(timeout=60) == 2
        client = redis.Redis.from_url(redis_url)
        group_id = f"celery-taskset-meta-{result.parent.id}"
        client.zadd(f"{group_id}.j", {json.dumps([1, header[1].id, "SUCCESS", 4]): 1})
        client.sadd(f"{group_id}.d", f"{header[1].id}:1")
        client.set(f"{group_id}.c", "a claim", px=200)

        # When its claim has expired, and a node of ours has looked twice
        worker = Worker(app, WorkerOptions(pool="threads", concurrency=1))
        joiner = worker.joiner(worker.service())
        assert joiner is not None
        with Probe() as probe, running(app):

            def taken_over() -> bool:
                joiner.sweep(older_than=0.1)
                return bool(probe.seen("join.released"))

            wait_until(taken_over, timeout=60, why=lambda: "nobody took it over")
            # Then its body runs
            assert result.get(timeout=60) == 6
