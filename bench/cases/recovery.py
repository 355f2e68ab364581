from __future__ import annotations

import os
import signal
import time

from bench.figures import OURS, Case, Metric, Target, percentile
from bench.processes import Process
from bench.session import Session, Stage
from bench.system import System

#: Workers that are killed.
KILLS = 30
#: Tasks for each of them, and microseconds of each.
TASKS, LENGTH = 400, 50_000


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Kill one worker after another, with work in its hands, while another goes on."""
    with stage.session(system) as session, session.worker(2) as survivor:
        kills = max(round(KILLS * stage.scale), 1)
        took = sorted(_kill(session, survivor) for _ in range(kills))
    return {
        "half": percentile(took, 0.5),
        "most": percentile(took, 0.99),
        "quickest": took[0],
        "kills": kills,
    }


def _kill(session: Session, survivor: Process) -> float:
    """Return the seconds from the death of a worker to the end of the last task it held."""
    session.probe.reset()
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
    return (session.last() - killed) / 1e9


CASE = Case(
    name="recovery",
    title="A whole worker is killed",
    method=(
        "Two workers of two processes share tasks of 50 ms; every process of one, its supervisor "
        "too, is killed at once. From then to the end of the last task, one that the dead worker "
        f"held: its lease has to end first. {KILLS} workers, one after the other; the lease is "
        "the default, `worker_lease` = 15 s."
    ),
    metrics=(
        Metric("half", "seconds, half of them", 1),
        Metric("most", "99 % of them", 1),
        Metric("quickest", "the quickest", 1),
        Metric("kills", "kills"),
    ),
    systems=(OURS,),
    measure=measure,
    targets=(Target("most", most=15.0),),
    rounds=1,
)
