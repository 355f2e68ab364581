"""Who is measured on RabbitMQ: durable messages, confirmed by the server, late acknowledgement."""

from __future__ import annotations

from dataclasses import replace

from bench import redis_systems as redis
from bench.system import PROCESSES, System

RPC = {"BENCH_RESULTS": "rpc://"}

UMBEL = replace(
    redis.UMBEL,
    name="umbel, RabbitMQ, rpc",
    pace=5_000,
    promise="late; result and end in two steps; confirmed",
    environment=RPC,
    on_redis=False,
    on_rabbitmq=True,
)
UMBEL_REDIS = replace(
    UMBEL,
    name="umbel, RabbitMQ + Redis",
    promise="late; result and end in two steps; confirmed; crashes counted",
    environment={},
    on_redis=True,
)
BARE = System(
    "bare, RabbitMQ",
    "bench.bare_rabbitmq",
    ("-m", "bench.bare_rabbitmq", PROCESSES),
    pace=20_000,
    promise="late; no results, no call; confirmed",
    runs=False,
    on_rabbitmq=True,
)
BARE_RPC = replace(
    BARE,
    name="bare, RabbitMQ, rpc",
    pace=8_000,
    promise="late; result and end in two steps; confirmed",
    environment=RPC,
    runs=True,
)
BARE_REDIS = replace(
    BARE_RPC, name="bare, RabbitMQ + Redis", pace=10_000, environment={}, on_redis=True
)
_QUORUM = {**RPC, "BENCH_QUEUE_TYPE": "quorum"}
UMBEL_QUORUM = replace(UMBEL, name="umbel, RabbitMQ, quorum, rpc", environment=_QUORUM)
BARE_QUORUM = replace(BARE_RPC, name="bare, RabbitMQ, quorum, rpc", environment=_QUORUM)
ON_QUORUM = (UMBEL_QUORUM, BARE_QUORUM)
ON_RABBITMQ = (
    UMBEL,
    UMBEL_REDIS,
    BARE,
    BARE_RPC,
    BARE_REDIS,
    replace(
        redis.CELERY,
        name="celery, RabbitMQ + Redis",
        promise="late; a killed process's task is lost; result and end in two steps; confirmed",
        on_rabbitmq=True,
    ),
    replace(
        redis.DRAMATIQ,
        name="dramatiq, RabbitMQ + Redis",
        promise="late; result and end in two steps; confirmed",
        extras="rabbitmq,redis",
        on_rabbitmq=True,
    ),
)
