"""Who is measured on SQLite, each system as it is set up wherever else it is measured."""

from __future__ import annotations

import signal
from dataclasses import replace

from bench.system import PROCESSES, SCRIPTS, System

FULL = {"BENCH_SYNCHRONOUS": "FULL"}

UMBEL = System(
    "umbel",
    "bench.apps.umbel_app",
    (
        *(f"{SCRIPTS}/umbel", "worker", "-A", "bench.apps.umbel_app"),
        *("-c", PROCESSES, "-l", "warning"),
    ),
    pace=30_000,
    promise="late, leases, fenced; NORMAL: survives the death of every process",
    package="umbel",
)
BARE = System(
    "bare",
    "bench.bare_sqlite",
    ("-m", "bench.bare_sqlite", PROCESSES),
    pace=100_000,
    promise="late; no results, no call, no recovery; NORMAL",
    runs=False,
)
#: Without what its polling needs.
HUEY_WORKER = (
    *("-m", "huey.bin.huey_consumer", "bench.apps.huey_app.huey", "-q"),
    *("-k", "process", "-w", PROCESSES, "-n"),
)
HUEY = System(
    "huey, fsync",
    "bench.apps.huey_app",
    (*HUEY_WORKER, "-d", "0.01", "-m", "0.05"),
    pace=1_500,
    promise="at most once (deleted, then run); FULL: each commit is fsynced",
    package="huey",
    version="3.5.4",
    environment=FULL,
    stop=signal.SIGINT,
    sends_many=False,
)
POTATOQ = System(
    "potatoq",
    "bench.apps.potatoq_app",
    (
        *("-m", "potatoq", "-A", "bench.apps.potatoq_app", "worker", "-l", "WARNING"),
        *("-c", PROCESSES, "--max-tasks-per-child", "1000000000"),
    ),
    pace=3_000,
    promise="late, result and end in one commit; NORMAL",
    package="potatoq",
    version="26.1a8",
)
FLEXIQ = System(
    "flexiq",
    "bench.apps.flexiq_app",
    ("-m", "flexiq.cli", "worker", "--app", "bench.apps.flexiq_app:queue", "--pool", "prefork"),
    pace=500,
    promise="late, leases; NORMAL",
    package="flexiq",
    version="2.1.0",
)
#: For what depends on how it is set up.
FLEXIQ_THREADS = replace(
    FLEXIQ,
    name="flexiq, threads",
    worker=(*FLEXIQ.worker[:-1], "thread"),
    promise="the same; one process, the pool that runs coroutines together",
)
ON_SQLITE = (
    UMBEL,
    replace(
        UMBEL,
        name="umbel FULL",
        pace=20_000,
        promise="the same; FULL: each commit is fsynced, survives a power cut",
        environment=FULL,
    ),
    BARE,
    replace(
        BARE,
        name="bare FULL",
        pace=80_000,
        promise="late; no results, no call, no recovery; FULL",
        environment=FULL,
    ),
    replace(
        BARE,
        name="bare, results",
        pace=70_000,
        promise="late, result and end in one commit; no recovery; NORMAL",
        environment={"BENCH_CALL": "1"},
        runs=True,
    ),
    replace(
        HUEY,
        name="huey, no fsync",
        pace=8_000,
        promise="at most once (deleted, then run); OFF: survives the death of its processes",
        environment={"BENCH_SYNCHRONOUS": "OFF"},
    ),
    HUEY,
    POTATOQ,
    FLEXIQ,
)
