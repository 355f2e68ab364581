"""The same cases on Redis, with what is wanted there."""

from __future__ import annotations

from dataclasses import replace

from bench.cases import backlog, beat, drain, enqueue, footprint, latency, payloads
from bench.figures import Case, Target
from bench.redis_systems import ON_REDIS, UMBEL

ALL = tuple(system.name for system in ON_REDIS)
QUEUES = tuple(system.name for system in ON_REDIS if system.runs)
BARE, BARE_RESULTS = "bare, Redis", "bare, results, Redis"


def _on_redis(case: Case, systems: tuple[str, ...], *targets: Target) -> Case:
    return replace(
        case,
        name=f"redis-{case.name}",
        title=f"Redis: {case.title[0].lower()}{case.title[1:]}",
        systems=systems,
        targets=targets,
        ours=UMBEL.name,
    )


CASES = (
    _on_redis(
        drain.CASE,
        ALL,
        Target("filled", least=30.0, of="celery"),
        *(Target("filled", least=8.0, of=name) for name in ("dramatiq", "taskiq")),
        Target("filled", least=8.0, of="potatoq, Redis"),
        Target("filled", least=2.5, of="tarsk"),
        Target("filled", least=0.35, of=BARE_RESULTS),
    ),
    _on_redis(
        enqueue.CASE,
        ALL,
        Target("one", least=0.85, of=BARE),
        *(Target("one", least=1.0, of=name) for name in ("dramatiq", "tarsk")),
        Target("bulk", least=50_000),
        Target("bulk", least=25.0, of="celery"),
    ),
    _on_redis(payloads.CASE, QUEUES),
    _on_redis(
        latency.CASE,
        QUEUES,
        Target("p99", most=10.0),
        Target("trip p50", most=0.5, of="celery"),
    ),
    _on_redis(
        backlog.CASE,
        (UMBEL.name, BARE_RESULTS),
        *(
            Target(f"deep {what}", least=0.8, of_metric=f"shallow {what}")
            for what in ("one", "bulk", "drain")
        ),
    ),
    _on_redis(beat.CASE, (UMBEL.name,), *beat.CASE.targets),
    _on_redis(footprint.CASE, QUEUES, Target("child", most=18.0), Target("idle", most=1.0)),
)
