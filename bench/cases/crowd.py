from __future__ import annotations

import json
import subprocess
import sys

from bench.figures import Case, Metric, Target
from bench.processes import ROOT, MeasureError
from bench.redis_systems import UMBEL
from bench.session import Stage
from bench.system import System

#: Consumers that wait for one queue.
FEW, MANY = 4, 1000


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Let a few wait, then many."""
    return {
        f"{key} {name}": value
        for key, size in (("few", FEW), ("many", MANY))
        for name, value in _waited(stage, system, size).items()
    }


def _waited(stage: Stage, system: System, size: int) -> dict[str, float]:
    with stage.session(system) as session:
        argv = [sys.executable, "-m", "bench.crowd", session.broker, str(size)]
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180.0
        )
    if done.returncode:
        raise MeasureError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


CASE = Case(
    name="redis-crowd",
    title="Redis: a message for a thousand consumers at rest",
    method=(
        f"So many consumers, each with a connection of its own, wait for one queue; {FEW} are no "
        "crowd. Messages are sent one after the other, each when the one before is done. Server: "
        "its CPU time for each, all that sending, receiving, committing and waiting again take; "
        "and while nothing happens. Delay: from sending to receiving."
    ),
    metrics=tuple(
        metric
        for key, size in (("few", FEW), ("many", MANY))
        for metric in (
            Metric(f"{key} cpu", f"{size:,}: server CPU µs a message"),
            Metric(f"{key} p50", "delay p50 ms", 2),
            Metric(f"{key} p99", "p99 ms", 1),
            Metric(f"{key} idle", "server, % of a core at rest", 2),
        )
    ),
    systems=(UMBEL.name,),
    measure=measure,
    targets=(
        Target("many cpu", most=3.0, of_metric="few cpu"),
        Target("many p99", most=20.0),
    ),
    ours=UMBEL.name,
)
