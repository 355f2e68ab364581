from __future__ import annotations

import time
from pathlib import Path

from bench.figures import Case, Metric, Target
from bench.processes import MeasureError, Process, proportional_memory
from bench.redis_systems import CELERY, UMBEL
from bench.session import LOOK, Stage
from bench.system import System

WORKERS = 8
#: What a worker prints when it has started.
READY = " ready."
#: Makes it say so.
LOUD = ("-l", "info")


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Start eight processes, wait until they say that they are ready, look at them at rest."""
    with stage.session(system) as session:
        session.client.ask("fill", task="noop", count=1, within=30.0)
        began = time.monotonic()
        with session.worker(WORKERS, *LOUD) as worker:
            ready = _ready(worker, began)
            session.warm_up(worker, 200)
            time.sleep(1.0)
            family = worker.tree()
            return {
                "ready": ready * 1e3,
                "memory": sum(map(proportional_memory, family)),
                "sockets": float(sum(map(_sockets, family))),
                "processes": float(len(family)),
            }


def _ready(worker: Process, began: float) -> float:
    while READY not in worker.tail():
        worker.check()
        if time.monotonic() > began + 30.0:
            raise MeasureError(f"not ready within 30 s: {worker.tail()}")
        time.sleep(LOOK)
    return time.monotonic() - began


def _sockets(pid: int) -> int:
    """Return how many connections a process has over TCP."""
    inodes = set[str]()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    established = {fields[9] for row in rows if (fields := row.split())[3] == "01"}
    return len(inodes & established)


CASE = Case(
    name="fleet",
    title="A worker of eight processes: start, memory, connections",
    method=(
        "Start: from starting the worker to its line `ready.`. Memory (PSS of all its processes) "
        "and connections over TCP: at rest, after 200 trivial tasks."
    ),
    metrics=(
        Metric("ready", "start to ready ms"),
        Metric("memory", "MiB in all", 1, compared=True),
        Metric("sockets", "TCP connections"),
        Metric("processes", "processes"),
    ),
    systems=("umbel", UMBEL.name, CELERY.name),
    measure=measure,
    targets=(Target("ready", most=600.0),),
)
