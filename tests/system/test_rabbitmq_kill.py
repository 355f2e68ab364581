"""Workers on RabbitMQ, killed at every gap: nothing is lost, and what is repeated is counted.

Results go to their caller (`rpc://`), so one application sends and waits.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos, Verdict, worker
from tests.system.chaos.journal import read
from umbel import AsyncResult, Umbel

#: Probabilities that make each gap be hit often among some thousand tasks.
GAPS = {
    "delivery.received": 0.08,
    "run": 0.01,
    "commit.begun": 0.08,
    "delivery.ending": 0.08,
    "delivery.committed": 0.08,
}


@pytest.fixture(params=["alone", "companion"], autouse=True)
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all of it without a ledger, and with one in an SQLite file."""
    if request.param == "companion":
        monkeypatch.setenv("UMBEL_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.sqlite")


@pytest.fixture
def chaos(rabbitmq_url: str, tmp_path: Path) -> Chaos:
    return Chaos(rabbitmq_url, tmp_path, GAPS)


@pytest.fixture
def app(rabbitmq_url: str) -> Iterator[Umbel]:
    with Umbel("client", broker=rabbitmq_url, set_as_current=False) as app:
        yield app


def send(app: Umbel, count: int) -> dict[int, AsyncResult[object]]:
    """Send tasks with a follow-up each; return their results by number."""
    follow = app.signature("chaos.follow")
    return {n: app.send_task("chaos.work", (n,), link=follow) for n in range(count)}


def account_for(
    chaos: Chaos, results: dict[int, AsyncResult[object]], *, timeout: float = 100
) -> Verdict:
    """Wait for every result and every follow-up, then compare."""

    def all_ended() -> bool:
        followed = read(chaos.journal).follow_ups if chaos.journal.exists() else {}
        return len(followed) >= len(results) and all(r.ready() for r in results.values())

    try:
        harness.wait_until(all_ended, timeout=timeout, why=lambda: "some tasks did not end")
    except AssertionError as late:
        print(late)
    return harness.verdict(chaos, {n: (r.state, r.result) for n, r in results.items()}, quiet=True)


def assert_nothing_lost(verdict: Verdict) -> None:
    print(verdict)
    assert not verdict.lost
    assert not verdict.missing_results
    assert not verdict.wrong_results
    # An ordered commit that is repeated publishes its follow-ups again.
    print(f"follow-ups repeated: {len(verdict.forked)}")


def test_children_die_at_every_gap(app: Umbel, chaos: Chaos) -> None:
    with worker(chaos):
        verdict = account_for(chaos, send(app, 1000))
    assert_nothing_lost(verdict)
    missed = [gap for gap in GAPS if not verdict.account.kills[gap]]
    assert not missed, f"gaps never hit: {missed}"


def test_node_children_and_supervisor_die_at_random(
    app: Umbel, rabbitmq_url: str, tmp_path: Path
) -> None:
    calm = Chaos(rabbitmq_url, tmp_path, {})
    chance = random.Random(7)
    results = send(app, 1000)
    stop = threading.Event()
    kills = 0

    def reaper() -> None:
        nonlocal kills
        while not stop.is_set():
            with worker(calm) as process:
                for _ in range(4):
                    if stop.wait(chance.uniform(0.1, 0.4)):
                        return
                    if family := process.children():
                        harness.kill(chance.choice(family))
                        kills += 1
                harness.kill(process.process.pid)
                kills += 1
                process.process.wait()

    thread = threading.Thread(target=reaper)
    thread.start()
    try:
        verdict = account_for(calm, results)
    finally:
        stop.set()
        thread.join()
    print(f"killed: {kills}")
    assert_nothing_lost(verdict)


@pytest.mark.parametrize("mutant", ["acknowledges early"])
def test_the_harness_catches_mutants(
    app: Umbel, rabbitmq_url: str, tmp_path: Path, mutant: str
) -> None:
    broken = Chaos(rabbitmq_url, tmp_path, GAPS, mutant=mutant)
    with worker(broken):
        results = send(app, 500)
        harness.wait_until(
            lambda: (
                sum(read(broken.journal).kills.values()) > 5 if broken.journal.exists() else False
            ),
            timeout=60,
            why=lambda: "nothing was killed",
        )
        with pytest.raises(AssertionError):
            harness.wait_until(
                lambda: all(r.ready() for r in results.values()), timeout=10, why=lambda: "lost"
            )
