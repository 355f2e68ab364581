from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping

from bench.figures import Case, Metric, Target
from bench.processes import MeasureError, Process, cpu_seconds, proportional_memory
from bench.session import Session, Stage
from bench.system import SCRIPTS, System
from umbel import servers
from umbel.servers.seams import Depth

#: Entries, and how many of them are due in the same second.
ENTRIES, DUE = 10_000, 1_000
#: Seconds until they are: the scheduler starts and reads its entries meanwhile.
START = 12.0
#: Seconds that a scheduler at rest is watched.
REST = 10.0
#: Seconds that the burst may take.
WITHIN = 10.0
PROGRAM = (f"{SCRIPTS}/umbel", "beat", "-A", "bench.apps.beat_app", "-l", "WARNING")


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Let many entries be due at once, then let the scheduler rest."""
    share = min(stage.scale, 1.0)
    entries, due = max(int(ENTRIES * share), 100), max(int(DUE * share), 10)
    due_at = int(time.time() + max(START * share, 4.0)) + 1
    facts = {
        "BENCH_ENTRIES": str(entries),
        "BENCH_DUE": str(due),
        "BENCH_DUE_AT": dt.datetime.fromtimestamp(due_at, dt.UTC).isoformat(),
    }
    with (
        stage.session(system) as session,
        session.beside("beat", *PROGRAM, **facts) as process,
    ):
        return _burst(session, process, due, due_at) | _rest(process, max(REST * share, 1.0))


def _burst(session: Session, process: Process, due: int, due_at: int) -> dict[str, float]:
    server = servers.open(session.broker, {})
    time.sleep(max(due_at - 0.5 - time.time(), 0.0))
    cpu = cpu_seconds(process.popen.pid)
    while (ready := _ready(server.transport.depth(["celery"]))) < due:
        process.check()
        if time.time() > due_at + WITHIN:
            raise MeasureError(f"{ready} of {due} were sent: {process.tail()}")
        time.sleep(0.005)
    taken = time.time() - due_at
    server.close()
    spent = cpu_seconds(process.popen.pid) - cpu
    return {"sent": taken * 1e3, "cpu": spent * 100}


def _ready(depths: Mapping[str, Depth]) -> int:
    return depths["celery"].ready if "celery" in depths else 0


def _rest(process: Process, rest: float) -> dict[str, float]:
    time.sleep(0.5)
    cpu = cpu_seconds(process.popen.pid)
    time.sleep(rest)
    cpu = cpu_seconds(process.popen.pid) - cpu
    return {"idle": cpu / rest * 100, "memory": proportional_memory(process.popen.pid)}


CASE = Case(
    name="beat",
    title="Periodic tasks: a thousand in one second, ten thousand at rest",
    method=(
        "A scheduler has 10,000 entries, of which 1,000 are due in the same second. Until all are "
        "sent: from the due time to the moment at which all messages are there. CPU: what the "
        "scheduler took for it, in percent of one second of a core. At rest: its CPU time while "
        "nothing is due for months."
    ),
    metrics=(
        Metric("sent", "ms until all are sent"),
        Metric("cpu", "% of a core", 1),
        Metric("idle", "% of a core at rest", 2),
        Metric("memory", "MiB", 1),
    ),
    systems=("umbel",),
    measure=measure,
    targets=(
        Target("sent", most=1000.0),
        Target("cpu", most=20.0),
        Target("idle", most=0.5),
    ),
)
