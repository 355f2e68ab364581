"""SIGKILL at every gap of a delivery's life, and of every process of a worker: nothing is lost.

Every accepted task ran, every result is there, every follow-up's message was committed once. Tasks
that ran again are counted and printed, not forbidden: that is "at least once".
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos, Verdict, worker
from tests.system.chaos.journal import read
from umbel import Umbel, chord
from umbel.exceptions import ChordError, WorkerLostError

pytestmark = pytest.mark.timeout(400)

#: Probabilities that make each gap be hit often among some thousand tasks.
GAPS = {
    "delivery.received": 0.08,
    "run": 0.01,
    "commit.begun": 0.08,
    "delivery.committed": 0.08,
}
#: Kills that a gap must have seen.
SEVERAL = 3


@pytest.fixture(params=["sqlite", "redis"])
def chaos(request: pytest.FixtureRequest, tmp_path: Path) -> Chaos:
    if request.param == "redis":
        return Chaos(request.getfixturevalue("redis_url"), tmp_path, GAPS)
    gaps = {**GAPS, "storage.committing": 0.06}
    return Chaos(f"sqlite:///{tmp_path}/chaos.sqlite", tmp_path, gaps)


def send(chaos: Chaos, count: int, *, first: int = 0) -> dict[int, str]:
    """Send tasks with a follow-up each; return their ids by number."""
    with Umbel("client", broker=chaos.broker, set_as_current=False) as app:
        follow = app.signature("chaos.follow")
        sent = {
            n: app.send_task("chaos.work", (n,), link=follow) for n in range(first, first + count)
        }
        return {number: result.id for number, result in sent.items()}


def seen(chaos: Chaos, ids: dict[int, str]) -> Verdict:
    """Compare what was told to the callers with the journal, as things stand."""
    with Umbel("client", broker=chaos.broker, set_as_current=False) as app:
        depths = app.servers().broker.transport.depth(["celery"]).values()
        metas = {
            task_id: json.loads(meta)
            for task_id, meta in app.servers().results.get(list(ids.values())).items()
        }
    nothing = {"status": "PENDING", "result": None}
    told = {number: metas.get(task_id, nothing) for number, task_id in ids.items()}
    return harness.verdict(
        chaos,
        {number: (meta["status"], meta["result"]) for number, meta in told.items()},
        quiet=not any(depth.ready or depth.held or depth.delayed for depth in depths),
    )


def account_for(chaos: Chaos, ids: dict[int, str], *, timeout: float) -> Verdict:
    """Wait for every result and every follow-up, then compare."""

    def all_ended() -> bool:
        now = seen(chaos, ids)
        followed = all(str(number) in now.account.follow_ups for number in ids)
        return not now.missing_results and followed

    try:
        harness.wait_until(all_ended, timeout=timeout, why=lambda: str(seen(chaos, ids)))
    except AssertionError as late:
        print(late)
    return seen(chaos, ids)


def assert_nothing_lost(verdict: Verdict) -> None:
    print(verdict)
    assert not verdict.lost
    assert not verdict.missing_results
    assert not verdict.wrong_results
    assert not verdict.forked


def test_children_die_at_every_gap(chaos: Chaos) -> None:
    with worker(chaos):
        ids = send(chaos, 2000)
        verdict = account_for(chaos, ids, timeout=120)
    assert_nothing_lost(verdict)
    missed = [gap for gap in chaos.faults if verdict.account.kills[gap] < SEVERAL]
    assert not missed, f"gaps hardly ever hit: {missed}"


def test_node_children_and_supervisor_die_at_random(chaos: Chaos, tmp_path: Path) -> None:
    calm = Chaos(chaos.broker, tmp_path, {}, lease=1.0, slowness=0.002)
    chance = random.Random(7)
    ids = send(calm, 2000)
    for _ in range(4):
        with worker(calm) as process:
            process.wait_until_ready()
            for _ in range(3):
                harness.kill(chance.choice(process.children()))
                time.sleep(chance.uniform(0.05, 0.2))  # no event tells when to kill
            harness.kill(process.process.pid)
    with worker(calm):
        verdict = account_for(calm, ids, timeout=90)
    assert_nothing_lost(verdict)
    assert verdict.duplicates


def test_what_a_killed_producer_was_told_is_stored(chaos: Chaos, tmp_path: Path) -> None:
    calm = Chaos(chaos.broker, tmp_path, {})
    accepted: dict[int, str] = {}
    for round_number in range(5):
        producer = subprocess.Popen(
            [sys.executable, "-m", "tests.system.chaos.producer", str(round_number * 10_000)],
            cwd=harness.ROOT,
            env=calm.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert producer.stdout is not None
        for line in producer.stdout:
            number, task_id = line.split()
            accepted[int(number)] = task_id
            if len(accepted) >= 100 * (round_number + 1):
                producer.kill()
                break
        producer.stdout.close()
        producer.wait()
    with worker(calm):
        verdict = account_for(calm, accepted, timeout=60)
    assert_nothing_lost(verdict)


def test_a_task_that_kills_its_worker_is_dead_lettered_and_no_other_is_charged(
    chaos: Chaos, tmp_path: Path
) -> None:
    calm = Chaos(chaos.broker, tmp_path, {}, concurrency=1, max_deliveries=3)
    with worker(calm), Umbel("client", broker=calm.broker, set_as_current=False) as app:
        members = [app.signature("chaos.work", (-1,)), app.signature("chaos.killer")]
        body = chord(members, app.signature("chaos.follow"), app=app).apply_async()
        killer = body.parent[1]
        ids = send(calm, 200)
        verdict = account_for(calm, ids, timeout=60)
        with pytest.raises(WorkerLostError):
            killer.get(timeout=60)
        with pytest.raises(ChordError, match="died 3 times"):  # its body is not sent, and says why
            body.get(timeout=60)
        ledger = app.servers().ledger
        assert ledger is not None
        (letter,) = ledger.dead_letters()
    assert_nothing_lost(verdict)
    assert verdict.account.kills["killer"] == 3
    assert letter.message.id == killer.id
    assert "died 3 times" in letter.reason


def test_a_live_worker_keeps_its_lease_while_a_task_holds_the_interpreter(
    chaos: Chaos, tmp_path: Path
) -> None:
    calm = Chaos(chaos.broker, tmp_path, {}, lease=0.6)
    with worker(calm), Umbel("client", broker=calm.broker, set_as_current=False) as app:
        results = [app.send_task("chaos.hold", (n, 2.5)) for n in range(2)]
        assert [result.get(timeout=60) for result in results] == [0, 1]
    assert read(calm.journal).runs == {"0": 1, "1": 1}


@pytest.mark.parametrize("mutant", ["", "stores unfenced"])
def test_a_paused_worker_that_wakes_up_late_writes_nothing(
    chaos: Chaos, tmp_path: Path, mutant: str
) -> None:
    # Given a worker whose every process is stopped beyond its lease, with tasks in hand
    calm = Chaos(chaos.broker, tmp_path, {}, lease=0.8, slowness=0.005)
    paused = replace(calm, mutant=mutant)
    with worker(paused) as first:
        first.wait_until_ready()
        ids = send(calm, 600)
        harness.wait_until(calm.has_run, timeout=60, why=first.output.read_text)
        family = [*first.children(), first.process.pid]
        harness.pause(calm, family)
        # When another takes over, and the first wakes up again and goes on
        try:
            with worker(calm):
                verdict = account_for(calm, ids, timeout=60)
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)
        marker = send(calm, 1, first=1_000_000)
        account_for(calm, marker, timeout=60)
    # Then, when it has ended and all that it sent has run, each follow-up was still sent once,
    # unless it is the mutant
    with worker(calm):
        harness.wait_until(lambda: seen(calm, ids).quiet, timeout=60, why=lambda: "not quiet")
    again = seen(calm, ids)
    if mutant:
        assert again.forked
    else:
        assert_nothing_lost(verdict)
        assert_nothing_lost(again)


@pytest.mark.parametrize(
    ("mutant", "gap", "caught"),
    [
        ("acknowledges early", "delivery.received", lambda seen: seen.lost and seen.quiet),
        ("commits in two steps", "mutant.between", lambda seen: seen.forked),
    ],
)
def test_the_harness_catches_mutants(
    chaos: Chaos, tmp_path: Path, mutant: str, gap: str, caught: Callable[[Verdict], object]
) -> None:
    broken = Chaos(chaos.broker, tmp_path, {gap: 0.3}, mutant=mutant)
    with worker(broken):
        ids = send(broken, 300)
        harness.wait_until(
            lambda: bool(caught(seen(broken, ids))), timeout=60, why=lambda: str(seen(broken, ids))
        )


def test_the_harness_catches_a_forgotten_lease(chaos: Chaos, tmp_path: Path) -> None:
    forgetful = Chaos(chaos.broker, tmp_path, {}, lease=0.6, mutant="forgets leases")
    with worker(forgetful), Umbel("client", broker=chaos.broker, set_as_current=False) as app:
        result = app.send_task("chaos.hold", (0, 2.5))
        harness.wait_until(
            lambda: forgetful.journal.exists() and read(forgetful.journal).runs["0"] > 1,
            timeout=30,
            why=lambda: "the task ran once only",
        )
        assert result.id
