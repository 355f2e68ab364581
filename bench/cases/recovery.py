from __future__ import annotations

import os
import signal
import time

from bench.figures import OURS, Case, Metric, Target
from bench.session import Stage
from bench.system import System

#: Tasks, and microseconds of each.
TASKS, LENGTH = 400, 50_000


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Kill one of two workers, all of its processes at once, with work in its hands."""
    with stage.session(system) as session, session.worker(2) as survivor:
        session.client.ask("fill", task="rest", count=TASKS, size=LENGTH, within=30.0)
        with session.worker(2, "-n", "victim@%h") as victim:
            # Until each of the four has run something.
            while len(session.probe.slots()) < 4:
                session.wait_for(1, survivor, within=30.0)
            for pid in victim.tree():
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic_ns()
        session.wait_for(TASKS, survivor, within=60.0)
        session.verify()
        return {"seconds": (session.last() - killed) / 1e9}


CASE = Case(
    name="recovery",
    title="A whole worker is killed",
    method=(
        "Two workers of two processes share tasks of 50 ms; every process of one, its supervisor "
        "too, is killed at once. From then to the end of the last task, one that the dead worker "
        "held: its lease (`worker_lease`, 15 s) has to end first."
    ),
    metrics=(Metric("seconds", "seconds until the last task ended", 1),),
    systems=(OURS,),
    measure=measure,
    targets=(Target("seconds", most=20.0),),
)
