"""The same cases on Redis, with what is wanted there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.cases import backlog, beat, crowd, drain, enqueue, footprint, latency, payloads
from bench.figures import Case, Target
from bench.redis_systems import ON_REDIS, UMBEL
from bench.session import Stage
from bench.system import System

HERE = ("Redis", UMBEL.name)
ALL = tuple(system.name for system in ON_REDIS)
QUEUES = tuple(system.name for system in ON_REDIS if system.runs)
BARE, BARE_RESULTS = "bare, Redis", "bare, results, Redis"
#: Of a server that is far away: seconds that its replies take longer, and how much less is done.
DISTANCE, SHARE = 0.001, 0.2


def _far(case: Case) -> Case:
    def measure(stage: Stage, system: System) -> Mapping[str, float]:
        far = replace(stage, distance=DISTANCE, scale=stage.scale * SHARE)
        return case.measure(far, system)

    return replace(
        case,
        name=f"{case.name}-far",
        title=f"{case.title}; the server is 1 ms away",
        method=f"{case.method} Between the programs and the server, a proxy keeps every reply for "
        "a millisecond.",
        measure=measure,
    )


_DRAIN = drain.ON_SERVER.on(
    *HERE,
    ALL,
    Target("filled", least=30.0, of="celery"),
    *(Target("filled", least=8.0, of=name) for name in ("dramatiq", "taskiq")),
    Target("filled", least=8.0, of="potatoq, Redis"),
    Target("filled", least=2.5, of="tarsk"),
    Target("filled", least=0.35, of=BARE_RESULTS),
)
_PAYLOADS = payloads.ON_SERVER.on(*HERE, QUEUES)

CASES = (
    _DRAIN,
    _far(_DRAIN),
    enqueue.CASE.on(
        *HERE,
        ALL,
        Target("one", least=0.85, of=BARE),
        *(Target("one", least=1.0, of=name) for name in ("dramatiq", "tarsk")),
        Target("bulk", least=50_000),
        Target("bulk", least=25.0, of="celery"),
    ),
    _PAYLOADS,
    _far(_PAYLOADS),
    latency.CASE.on(
        *HERE,
        QUEUES,
        Target("p99", most=10.0),
        Target("trip p50", most=0.5, of="celery"),
    ),
    backlog.CASE.on(
        *HERE,
        (UMBEL.name, BARE_RESULTS),
        *(
            Target(f"deep {what}", least=0.8, of_metric=f"shallow {what}")
            for what in ("one", "bulk", "drain")
        ),
    ),
    beat.CASE.on(*HERE, (UMBEL.name,), *beat.CASE.targets),
    footprint.CASE.on(*HERE, QUEUES, Target("child", most=18.0), Target("idle", most=1.0)),
    crowd.CASE,
)
