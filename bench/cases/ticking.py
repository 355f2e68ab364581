"""Schedulers beside each other: a thousand entries, each due every second.

Nothing of a message says when it was due, and Celery counts an interval from the last run. So what
is compared is how far apart two runs of an entry are, as the queue has them; of ours, whose due
times are a grid, it is said besides how long after them messages are there.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from bench.figures import Case, Metric, Target, median, percentile
from bench.processes import Process, cpu_seconds, proportional_memory
from bench.session import Session, Stage
from bench.system import SCRIPTS, System
from umbel import Umbel
from umbel.scheduling.state import State

#: Entries, and seconds that they are watched for.
ENTRIES, SECONDS = 1000, 30.0
#: As many as a small application has.
FEW = 10
#: Seconds for which all have run before they are watched.
WARM = 3.0
#: Seconds: it ends between two seconds' runs.
HALF = 0.5
#: Longest wait for a message.
WAIT = 5.0

_PROGRAMS = {
    "umbel, Redis": (f"{SCRIPTS}/umbel", "beat", "-A", "bench.apps.beat_app", "-l", "ERROR"),
    "celery": (
        *(f"{SCRIPTS}/celery", "-A", "bench.apps.celery_beat_app", "beat", "-l", "ERROR"),
        *("-s", "beat-schedule"),
    ),
}


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Watch a scheduler with many entries, then one with few."""
    seconds = max(SECONDS * stage.scale, 3.0)
    many = _watched(stage, system, ENTRIES, seconds)
    few = _watched(stage, system, FEW, seconds)
    return many | {f"few {name}": value for name, value in few.items()}


def _watched(stage: Stage, system: System, entries: int, seconds: float) -> dict[str, float]:
    with (
        stage.session(system) as session,
        session.beside("beat", *_PROGRAMS[system.name], BENCH_EVERY=str(entries)) as process,
        redis.Redis.from_url(session.broker) as server,
    ):
        _arrivals(server, process, WARM)
        cpu = cpu_seconds(process.popen.pid)
        arrivals = _arrivals(server, process, seconds)
        cpu = cpu_seconds(process.popen.pid) - cpu
        memory = proportional_memory(process.popen.pid)
        late = _late(session, arrivals) if system.package == "umbel" else []
    gaps = [1e3 * abs(gap - 1.0) for gap in _gaps(arrivals)]
    found = {
        "rate": 100 * len(arrivals) / (entries * seconds),
        "cpu": 100 * cpu / seconds,
        "memory": memory,
        "gap p50": median(gaps),
        "gap p99": percentile(gaps, 0.99),
    }
    if late:
        found |= {"late p50": median(late), "late p99": percentile(late, 0.99)}
    return found


def _arrivals(
    server: redis.Redis, process: Process, seconds: float
) -> Sequence[tuple[float, bytes]]:
    """Take the messages of so many seconds from the first of them; return when each was there."""
    found: list[tuple[float, bytes]] = []
    end = None
    while end is None or time.time() < end:
        process.check()
        first: Any = server.blpop(["celery"], timeout=WAIT)
        now = time.time()
        end = end or now + seconds - HALF
        if first is not None and now < end:
            rest: Any = server.lpop("celery", 10 * ENTRIES) or []
            found += [(now, message) for message in (first[1], *rest)]
    return found


def _entry(message: bytes) -> int:
    args, _, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    return int(args[0])


def _gaps(arrivals: Iterable[tuple[float, bytes]]) -> Iterable[float]:
    times: defaultdict[int, list[float]] = defaultdict(list)
    for at, message in arrivals:
        times[_entry(message)].append(at)
    for each in times.values():
        yield from (after - before for before, after in itertools.pairwise(each))


def _late(session: Session, arrivals: Iterable[tuple[float, bytes]]) -> list[float]:
    """Return how many ms after their due times messages were there."""
    with Umbel("bench", broker=session.broker, set_as_current=False) as app:
        timetable = app.servers().broker.timetable
        assert timetable is not None
        states = {
            name: State.read(each) for name, each in timetable.progress(app.schedule.table).items()
        }
    anchors = {int(name.split()[1]): state.anchor for name, state in states.items() if state}
    return [1e3 * ((at - anchors[_entry(message)]) % 1.0) for at, message in arrivals]


CASE = Case(
    name="ticking",
    title="Periodic tasks: a thousand entries, each due every second",
    method=(
        "A scheduler has 1,000 entries of one second; what it sends is taken from the queue as it "
        "comes. Rate: runs sent, of those that were due. Gap: by how much two runs of an entry are "
        "not a second apart. Late: how long after its due time a message is there, which only of "
        "umbel can be said. CPU: of the scheduler, in percent of a core. Few: the same with 10 "
        "entries."
    ),
    metrics=(
        Metric("rate", "% of runs sent", 1),
        Metric("gap p50", "gap off by, p50 ms", 1),
        Metric("gap p99", "p99 ms", 1),
        Metric("late p50", "late, p50 ms", 1),
        Metric("late p99", "p99 ms", 1),
        Metric("cpu", "% of a core", 1, compared=True),
        Metric("memory", "MiB", 1),
        Metric("few gap p99", "few: gap p99 ms", 1),
        Metric("few late p99", "few: late p99 ms", 1),
        Metric("few cpu", "few: % of a core", 2),
    ),
    systems=tuple(_PROGRAMS),
    measure=measure,
    targets=(
        Target("rate", least=99.0),
        Target("late p99", most=1000.0),
        Target("few late p99", most=50.0),
        Target("cpu", most=1.0, of="celery"),
    ),
    ours="umbel, Redis",
)
