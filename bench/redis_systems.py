"""Who is measured on Redis. Nothing is kept on disk: what is compared is the way, not the disk."""

from __future__ import annotations

import signal
from dataclasses import replace

from bench.system import PROCESSES, SCRIPTS, URL, System

UMBEL = System(
    "umbel, Redis",
    "bench.apps.umbel_app",
    (
        *(f"{SCRIPTS}/umbel", "worker", "-A", "bench.apps.umbel_app"),
        *("-c", PROCESSES, "-l", "warning"),
    ),
    pace=15_000,
    promise="late, leases, fenced, result and end in one step",
    package="umbel",
    coroutines=True,
    on_redis=True,
)
BARE = System(
    "bare, Redis",
    "bench.bare_redis",
    ("-m", "bench.bare_redis", PROCESSES),
    pace=60_000,
    promise="late; no results, no call, no recovery",
    runs=False,
    on_redis=True,
)
CELERY = System(
    "celery",
    "bench.apps.celery_app",
    (
        *("-m", "celery", "-A", "bench.apps.celery_app", "worker", "-l", "WARNING"),
        *("-c", PROCESSES, "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ),
    pace=800,
    promise="late; a lost worker's tasks after an hour; result and end in two steps",
    package="celery",
    version="5.7.0",
    requires="celery[redis]==5.7.0",
    on_redis=True,
)
#: For what depends on how it is set up.
CELERY_AS_IT_IS = replace(
    CELERY,
    name="celery, defaults",
    worker=CELERY.worker[:-3],
    promise="early: a lost worker's tasks are gone",
    environment={"BENCH_DEFAULTS": "1"},
)
ON_REDIS = (
    UMBEL,
    BARE,
    replace(
        BARE,
        name="bare, results, Redis",
        pace=30_000,
        promise="late, result and end in one step; no recovery",
        environment={"BENCH_CALL": "1"},
        runs=True,
    ),
    CELERY,
    System(
        "dramatiq",
        "bench.apps.dramatiq_app",
        ("-m", "dramatiq", "bench.apps.dramatiq_app", "-p", PROCESSES, "-t", "8"),
        pace=2_500,
        promise="late; a lost worker's tasks after a minute; result and end in two steps",
        package="dramatiq",
        version="2.2.1",
        requires="dramatiq[redis]==2.2.1",
        on_redis=True,
    ),
    System(
        "taskiq",
        "bench.apps.taskiq_app",
        (
            *(f"{SCRIPTS}/taskiq", "worker", "bench.apps.taskiq_app:broker"),
            *("--workers", PROCESSES, "--ack-type", "when_saved", "--log-level", "WARNING"),
        ),
        pace=3_000,
        promise="late (streams); result and end in two steps",
        package="taskiq",
        version="0.13.0",
        requires="taskiq==0.13.0 taskiq-redis==1.2.4",
        on_redis=True,
    ),
    System(
        "tarsk",
        "bench.apps.tarsk_app",
        (
            *(f"{SCRIPTS}/tarsk", "worker", "--app", "bench.apps.tarsk_app:app"),
            *("--children", PROCESSES, "--broker", URL),
        ),
        pace=10_000,
        promise="late, leases (streams); its runtime is Rust",
        package="tarsk",
        version="0.2.1",
        requires="tarsk-redis==0.2.1",
        on_redis=True,
    ),
    System(
        "potatoq, Redis",
        "bench.apps.potatoq_app",
        (
            *("-m", "potatoq", "-A", "bench.apps.potatoq_app", "worker", "-l", "WARNING"),
            *("-c", PROCESSES, "--max-tasks-per-child", "1000000000"),
        ),
        pace=2_500,
        promise="late, leases, result and end in one step",
        package="potatoq",
        version="26.1a8",
        requires="potatoq[redis]==26.1a8",
        on_redis=True,
    ),
    System(
        "huey, Redis",
        "bench.apps.huey_app",
        (
            *("-m", "huey.bin.huey_consumer", "bench.apps.huey_app.huey", "-q"),
            *("-k", "process", "-w", PROCESSES, "-n"),
        ),
        pace=5_000,
        promise="at most once (deleted, then run)",
        package="huey",
        version="3.5.4",
        requires="huey[redis]==3.5.4",
        on_redis=True,
        stop=signal.SIGINT,
        sends_many=False,
    ),
)
