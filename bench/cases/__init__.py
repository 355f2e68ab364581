"""What is measured, in the order of the tables."""

from __future__ import annotations

from bench.cases import (
    backlog,
    beat,
    canvas,
    coroutines,
    drain,
    enqueue,
    fleet,
    footprint,
    latency,
    mixed,
    on_rabbitmq,
    on_redis,
    payloads,
    publisher,
    recovery,
    recycling,
    ticking,
    waiting,
)

CASES = (
    drain.CASE,
    enqueue.CASE,
    publisher.CASE,
    payloads.CASE,
    coroutines.CASE,
    latency.CASE,
    backlog.CASE,
    footprint.CASE,
    fleet.CASE,
    waiting.CASE,
    mixed.CASE,
    recycling.CASE,
    recovery.CASE,
    beat.CASE,
    ticking.CASE,
    *canvas.CASES,
    *on_redis.CASES,
    *on_rabbitmq.CASES,
)
