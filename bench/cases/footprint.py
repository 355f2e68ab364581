from __future__ import annotations

import statistics
import subprocess
import time

from bench.figures import Case, Metric, Target
from bench.processes import cpu_seconds, proportional_memory
from bench.session import Session, Stage
from bench.system import System
from bench.venvs import python_of

#: Tasks that run before memory is looked at, in seconds of the system's pace.
WORK = 1.0
#: Seconds that a worker at rest is watched.
REST = 3.0
#: Imports timed.
IMPORTS = 7
IMPORT = """import sys, time; began = time.perf_counter(); import {}
print(time.perf_counter() - began, len(sys.modules))"""


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Import it, start it on one waiting task, let it work, let it rest."""
    values = _import(system, max(int(IMPORTS * min(stage.scale, 1.0)), 1))
    with stage.session(system) as session:
        return values | _run(session, stage.scale)


def _import(system: System, times: int) -> dict[str, float]:
    if not system.package:
        return {}
    argv = [str(python_of(system)), "-c", IMPORT.format(system.package)]
    lines = [
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30.0).stdout
        for _ in range(times + 1)
    ]
    taken = [line.split() for line in lines[1:]]  # the first one may write its bytecode
    return {
        "import": statistics.median(float(seconds) for seconds, _ in taken) * 1e3,
        "modules": float(taken[0][1]),
    }


def _run(session: Session, scale: float) -> dict[str, float]:
    session.client.ask("fill", task="noop", count=1, within=30.0)
    began = time.monotonic_ns()
    with session.worker(2) as worker:
        session.wait_for(1, worker, within=30.0)
        ready = (session.last() - began) / 1e6
        count = session.count(WORK * scale)
        session.client.ask("fill", task="noop", count=count, within=60.0)
        session.wait_for(count + 1, worker, within=60.0)
        session.verify()
        time.sleep(0.5)
        rest, cpu = max(REST * scale, 0.5), cpu_seconds(worker.popen.pid)
        time.sleep(rest)
        cpu = cpu_seconds(worker.popen.pid) - cpu
        children = [slot.pid for slot in session.probe.slots()]
        whole = sum(proportional_memory(pid) for pid in worker.tree())
        child = max(proportional_memory(pid) for pid in children)
    return {
        "ready": ready,
        "child": child,
        "whole": whole,
        "idle": cpu / rest * 100,
        "processes": float(len(worker.tree())),
    }


CASE = Case(
    name="footprint",
    title="Start, memory, and a worker at rest",
    method=(
        "Import: seconds of the import statement in a fresh interpreter. Start: from starting the "
        "worker (two processes) to the start of a task that waits for it. Memory: shared pages "
        "divided among those that share them (PSS), after a second of work. At rest: CPU time of "
        "all the worker's processes while nothing happens."
    ),
    metrics=(
        Metric("import", "import ms", 0, compared=True),
        Metric("modules", "modules loaded"),
        Metric("ready", "start ms"),
        Metric("child", "MiB a process", 1, compared=True),
        Metric("whole", "MiB in all", 1),
        Metric("idle", "% of a core at rest", 2),
    ),
    systems=("umbel", "bare, results", "huey, no fsync", "potatoq", "flexiq"),
    measure=measure,
    targets=(
        Target("import", most=120.0),
        Target("child", most=12.0),
        Target("idle", most=1.0),
    ),
)
