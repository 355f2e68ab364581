"""The same cases on Redis, with what is wanted there."""

from __future__ import annotations

from bench.cases import backlog, beat, drain, enqueue, footprint, latency, payloads
from bench.figures import Target
from bench.redis_systems import ON_REDIS, UMBEL

HERE = ("Redis", UMBEL.name)
ALL = tuple(system.name for system in ON_REDIS)
QUEUES = tuple(system.name for system in ON_REDIS if system.runs)
BARE, BARE_RESULTS = "bare, Redis", "bare, results, Redis"

CASES = (
    drain.CASE.on(
        *HERE,
        ALL,
        Target("filled", least=30.0, of="celery"),
        *(Target("filled", least=8.0, of=name) for name in ("dramatiq", "taskiq")),
        Target("filled", least=8.0, of="potatoq, Redis"),
        Target("filled", least=2.5, of="tarsk"),
        Target("filled", least=0.35, of=BARE_RESULTS),
    ),
    enqueue.CASE.on(
        *HERE,
        ALL,
        Target("one", least=0.85, of=BARE),
        *(Target("one", least=1.0, of=name) for name in ("dramatiq", "tarsk")),
        Target("bulk", least=50_000),
        Target("bulk", least=25.0, of="celery"),
    ),
    payloads.CASE.on(*HERE, QUEUES),
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
)
