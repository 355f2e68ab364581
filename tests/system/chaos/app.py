"""The application of the crash tests, and the worker process that runs it.

    python -m tests.system.chaos.app            (configured by CHAOS_… variables)

Its processes kill themselves with SIGKILL at the gaps between the steps of a delivery's life. The
gaps are found by listening to telemetry, so nothing in umbel knows of them; each kill is written to
the journal first, and only counted when there was work in flight.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.system.chaos.journal import Journal
from tests.system.chaos.mutants import mutated
from umbel import Umbel, signals, telemetry
from umbel.worker.launch import Worker, WorkerOptions

app = Umbel(
    "chaos",
    broker=os.environ["CHAOS_BROKER"],
    backend=os.environ.get("CHAOS_RESULTS"),
    worker_lease=float(os.environ.get("CHAOS_LEASE", "2")),
    task_max_deliveries=int(os.environ.get("CHAOS_MAX_DELIVERIES", "3")),
)
journal = Journal(Path(os.environ["CHAOS_JOURNAL"]))
#: Gap -> probability that the process dies in it each time it gets there.
faults: dict[str, float] = json.loads(os.environ.get("CHAOS_FAULTS", "{}"))
chance = random.Random()
#: Seconds that each task takes at least.
slowness = float(os.environ.get("CHAOS_SLOWNESS", "0"))


def die_perhaps(gap: str) -> None:
    if chance.random() < faults.get(gap, 0.0):
        journal.write("killed", gap)
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="chaos.work")
def work(number: int) -> int:
    journal.write("ran", number)
    die_perhaps("run")
    if slowness:
        time.sleep(slowness)
    return number * 2


@app.task(name="chaos.follow", bind=True)
def follow(self: Any, doubled: int) -> int:
    journal.write("followed", doubled // 2, self.request.id)
    return doubled


@app.task(name="say")
def say(*words: Any) -> list[Any]:
    die_perhaps("run")
    return [*words]


@app.task(name="fail")
def fail(*_: Any) -> None:
    die_perhaps("run")
    raise ValueError("failed")


@app.task(name="chaos.hold")
def hold(number: int, seconds: float) -> int:
    """Run for some time without letting go of the interpreter lock."""
    journal.write("ran", number)
    sys.setswitchinterval(3600)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sum(range(1000))
    sys.setswitchinterval(0.0005)
    return number


@app.task(name="chaos.killer")
def killer() -> None:
    journal.write("killed", "killer")
    os.kill(os.getpid(), signal.SIGKILL)


def _listen(**_: Any) -> None:
    chance.seed()

    def listener(event: str, facts: dict[str, Any]) -> None:
        if event in faults and facts.get("count", 1):
            die_perhaps(event)

    telemetry.listen(listener)


def main() -> int:
    signals.worker_process_init.connect(_listen, weak=False)
    options = WorkerOptions(node="chaos@%h", concurrency=int(os.environ.get("CHAOS_C", "2")))
    worker = mutated(Worker(app, options), os.environ.get("CHAOS_MUTANT", ""))
    return worker.run(lambda: print("ready.", flush=True))


if __name__ == "__main__":
    sys.exit(main())
