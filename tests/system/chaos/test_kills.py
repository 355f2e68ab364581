"""SIGKILL at every gap of a delivery's life, and of every process of a worker: nothing is lost.

Every accepted task ran, every result is there, every follow-up's message was committed once. Tasks
that ran again are counted and printed, not forbidden: that is "at least once".
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos, Verdict, worker
from tests.system.chaos.journal import read
from umbel import Umbel
from umbel.exceptions import WorkerLostError

pytestmark = pytest.mark.timeout(180)

#: Probabilities that make each gap be hit often among some thousand tasks.
GAPS = {
    "delivery.received": 0.08,
    "run": 0.003,
    "commit.begun": 0.08,
    "storage.committing": 0.03,
    "delivery.committed": 0.08,
}


@pytest.fixture
def chaos(tmp_path: Path) -> Chaos:
    return Chaos(f"sqlite:///{tmp_path}/chaos.sqlite", tmp_path, GAPS)


def send(chaos: Chaos, count: int) -> dict[int, str]:
    """Send tasks with a follow-up each; return their ids by number."""
    with Umbel("client", broker=chaos.broker, set_as_current=False) as app:
        follow = app.signature("chaos.follow")
        sent = {n: app.send_task("chaos.work", (n,), link=follow) for n in range(count)}
        return {number: result.id for number, result in sent.items()}


def account_for(chaos: Chaos, ids: dict[int, str], *, timeout: float) -> Verdict:
    """Wait for every result and every follow-up, then compare."""
    with Umbel("client", broker=chaos.broker, set_as_current=False) as app:
        results = {number: app.AsyncResult(task_id) for number, task_id in ids.items()}
        metas = app.servers().results

        def all_ended() -> bool:
            ended = metas.get(list(ids.values()))
            followed = read(chaos.journal).follow_ups if chaos.journal.exists() else {}
            return len(ended) == len(ids) and len(followed) >= len(ids)

        try:
            harness.wait_until(all_ended, timeout=timeout, why=lambda: "some tasks did not end")
        except AssertionError as late:
            print(late)
        return harness.verdict(chaos, {n: (r.state, r.result) for n, r in results.items()})


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
    missed = [gap for gap in GAPS if not verdict.account.kills[gap]]
    assert not missed, f"gaps never hit: {missed}"


def test_node_children_and_supervisor_die_at_random(chaos: Chaos, tmp_path: Path) -> None:
    calm = Chaos(chaos.broker, tmp_path, {})
    chance = random.Random(7)
    ids = send(calm, 2000)
    stop = threading.Event()
    killed = {"supervisor": 0, "other": 0}

    def reaper() -> None:
        while not stop.is_set():
            with worker(calm) as process:
                for _ in range(4):
                    if stop.wait(chance.uniform(0.1, 0.4)):
                        return
                    for victim in harness.victims(process, chance):
                        harness.kill(victim)
                        killed["other"] += 1
                harness.kill(process.process.pid)
                killed["supervisor"] += 1
                process.process.wait()

    thread = threading.Thread(target=reaper)
    thread.start()
    try:
        verdict = account_for(calm, ids, timeout=120)
    finally:
        stop.set()
        thread.join()
    print(killed)
    assert_nothing_lost(verdict)


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
    calm = Chaos(chaos.broker, tmp_path, {}, concurrency=1)
    with worker(calm), Umbel("client", broker=calm.broker, set_as_current=False) as app:
        killer = app.send_task("chaos.killer")
        ids = send(calm, 200)
        verdict = account_for(calm, ids, timeout=60)
        with pytest.raises(WorkerLostError):
            killer.get(timeout=30)
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


def test_a_paused_worker_that_wakes_up_late_writes_nothing(chaos: Chaos, tmp_path: Path) -> None:
    # Given a worker whose every process is stopped beyond its lease, with tasks in hand
    calm = Chaos(chaos.broker, tmp_path, {}, lease=0.6)
    with worker(calm) as first:
        harness.wait_until(
            lambda: "ready." in first.output.read_text(), timeout=20, why=first.output.read_text
        )
        ids = send(calm, 500)
        family = [*first.children(), first.process.pid]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        # When another takes over and the first wakes up again
        try:
            with worker(calm):
                verdict = account_for(calm, ids, timeout=60)
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)
    # Then every follow-up was still sent once
    assert_nothing_lost(verdict)


@pytest.mark.parametrize(
    ("mutant", "caught"),
    [
        ("acknowledges early", lambda verdict: verdict.lost or verdict.missing_results),
        ("commits in two steps", lambda verdict: verdict.forked),
        ("stores unfenced", lambda verdict: verdict.forked),
    ],
)
def test_the_harness_catches_mutants(
    chaos: Chaos, tmp_path: Path, mutant: str, caught: Callable[[Verdict], object]
) -> None:
    broken = Chaos(chaos.broker, tmp_path, GAPS, mutant=mutant)
    with worker(broken):
        ids = send(broken, 1000)
        verdict = account_for(broken, ids, timeout=12)
    print(verdict)
    assert caught(verdict)


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
