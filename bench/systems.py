"""Who is measured: how it is installed and started, and what it promises. First on SQLite."""

from __future__ import annotations

import signal

from bench.rabbitmq_systems import ON_RABBITMQ
from bench.redis_systems import CELERY_AS_IT_IS, ON_REDIS
from bench.system import PROCESSES, SCRIPTS, System

BARE = ("-m", "bench.bare_sqlite", PROCESSES)
UMBEL = (
    f"{SCRIPTS}/umbel",
    "worker",
    "-A",
    "bench.apps.umbel_app",
    "-c",
    PROCESSES,
    "-l",
    "warning",
)
HUEY = (
    *("-m", "huey.bin.huey_consumer", "bench.apps.huey_app.huey", "-q"),
    *("-k", "process", "-w", PROCESSES, "-d", "0.01", "-m", "0.05", "-n"),
)
POTATOQ = (
    *("-m", "potatoq", "-A", "bench.apps.potatoq_app", "worker", "-l", "WARNING"),
    *("-c", PROCESSES, "--max-tasks-per-child", "1000000000"),
)
FLEXIQ = ("-m", "flexiq.cli", "worker", "--app", "bench.apps.flexiq_app:queue", "--pool", "prefork")

#: Measured by every case that names no others.
USUAL = (
    System(
        "umbel",
        "bench.apps.umbel_app",
        UMBEL,
        pace=30_000,
        promise="late, leases, fenced; NORMAL: survives the death of every process",
        package="umbel",
        coroutines=True,
    ),
    System(
        "umbel FULL",
        "bench.apps.umbel_app",
        UMBEL,
        pace=20_000,
        promise="the same; FULL: each commit is fsynced, survives a power cut",
        package="umbel",
        environment={"BENCH_SYNCHRONOUS": "FULL"},
        coroutines=True,
    ),
    System(
        "bare",
        "bench.bare_sqlite",
        BARE,
        pace=100_000,
        promise="late; no results, no call, no recovery; NORMAL",
        runs=False,
    ),
    System(
        "bare FULL",
        "bench.bare_sqlite",
        BARE,
        pace=80_000,
        promise="late; no results, no call, no recovery; FULL",
        environment={"BENCH_SYNCHRONOUS": "FULL"},
        runs=False,
    ),
    System(
        "bare, results",
        "bench.bare_sqlite",
        BARE,
        pace=70_000,
        promise="late, result and end in one commit; no recovery; NORMAL",
        environment={"BENCH_CALL": "1"},
    ),
    System(
        "huey, no fsync",
        "bench.apps.huey_app",
        HUEY,
        pace=8_000,
        promise="at most once (deleted, then run); OFF: survives the death of its processes",
        package="huey",
        version="3.5.4",
        environment={"BENCH_SYNCHRONOUS": "OFF"},
        stop=signal.SIGINT,
        sends_many=False,
    ),
    System(
        "huey, fsync",
        "bench.apps.huey_app",
        HUEY,
        pace=1_500,
        promise="at most once (deleted, then run); FULL: each commit is fsynced",
        package="huey",
        version="3.5.4",
        environment={"BENCH_SYNCHRONOUS": "FULL"},
        stop=signal.SIGINT,
        sends_many=False,
    ),
    System(
        "potatoq",
        "bench.apps.potatoq_app",
        POTATOQ,
        pace=3_000,
        promise="late, result and end in one commit; NORMAL",
        package="potatoq",
        version="26.1a8",
        coroutines=True,
    ),
    System(
        "flexiq",
        "bench.apps.flexiq_app",
        FLEXIQ,
        pace=500,
        promise="late, leases; NORMAL",
        package="flexiq",
        version="2.1.0",
    ),
)
THREADS = System(
    "flexiq, threads",
    "bench.apps.flexiq_app",
    (*FLEXIQ[:-1], "thread"),
    pace=500,
    promise="the same; one process, the pool that runs coroutines together",
    package="flexiq",
    version="2.1.0",
    coroutines=True,
)
SYSTEMS = (*USUAL, THREADS, *ON_REDIS, CELERY_AS_IT_IS, *ON_RABBITMQ)

#: Those that run tasks and store their results.
QUEUES = tuple(system.name for system in USUAL if system.runs)

__all__ = ["ON_REDIS", "PROCESSES", "QUEUES", "SCRIPTS", "SYSTEMS", "USUAL", "System", "named"]


def named(names: tuple[str, ...]) -> list[System]:
    """Return the systems of these names, in the order of the table."""
    return [system for system in SYSTEMS if system.name in names]
