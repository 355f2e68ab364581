"""The same cases on RabbitMQ, with what is wanted there."""

from __future__ import annotations

from dataclasses import replace

from bench.cases import drain, enqueue, footprint, latency
from bench.figures import Target
from bench.rabbitmq_systems import (
    BARE,
    BARE_QUORUM,
    BARE_REDIS,
    BARE_RPC,
    ON_RABBITMQ,
    UMBEL,
    UMBEL_QUORUM,
    UMBEL_REDIS,
)

HERE = ("RabbitMQ", UMBEL.name)
ALL = tuple(system.name for system in ON_RABBITMQ)
QUEUES = tuple(system.name for system in ON_RABBITMQ if system.runs)
PEERS = ("celery, RabbitMQ + Redis", "dramatiq, RabbitMQ + Redis")

CASES = (
    drain.CASE.on(
        *HERE,
        ALL,
        Target("filled", least=0.6, of=BARE_RPC.name),
        Target("filled", least=0.6, of=BARE_REDIS.name, system=UMBEL_REDIS.name),
        Target("filled", least=5.0, of=PEERS[0], system=UMBEL_REDIS.name),
        Target("filled", least=1.0, of=PEERS[1], system=UMBEL_REDIS.name),
    ),
    replace(
        drain.CASE.on(
            *HERE,
            (UMBEL.name, UMBEL_QUORUM.name, BARE_RPC.name, BARE_QUORUM.name),
            Target("filled", least=0.6, of=BARE_QUORUM.name, system=UMBEL_QUORUM.name),
        ),
        name="rabbitmq-quorum",
        title="RabbitMQ: what a quorum queue costs",
    ),
    enqueue.CASE.on(
        *HERE,
        ALL,
        Target("one", least=0.85, of=BARE.name),
        Target("bulk", least=0.75, of=BARE.name),
        *(Target("one", least=1.0, of=peer) for peer in PEERS),
    ),
    latency.CASE.on(*HERE, QUEUES, Target("p99", most=15.0)),
    footprint.CASE.on(*HERE, QUEUES, Target("idle", most=1.0)),
)
