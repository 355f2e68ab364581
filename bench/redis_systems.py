"""Who is measured on Redis. Nothing is kept on disk: what is compared is the way, not the disk."""

from __future__ import annotations

from dataclasses import replace

from bench import sqlite_systems as sqlite
from bench.system import PROCESSES, SCRIPTS, URL, System

UMBEL = replace(
    sqlite.UMBEL,
    name="umbel, Redis",
    pace=15_000,
    promise="late, leases, fenced, result and end in one step",
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
    extras="redis",
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
DRAMATIQ = System(
    "dramatiq",
    "bench.apps.dramatiq_app",
    ("-m", "dramatiq", "bench.apps.dramatiq_app", "-p", PROCESSES, "-t", "8"),
    pace=2_500,
    promise="late; a lost worker's tasks after a minute; result and end in two steps",
    package="dramatiq",
    version="2.2.1",
    extras="redis",
    on_redis=True,
)
TASKIQ = System(
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
)
TARSK = System(
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
    DRAMATIQ,
    TASKIQ,
    TARSK,
    replace(
        sqlite.POTATOQ,
        name="potatoq, Redis",
        pace=2_500,
        promise="late, leases, result and end in one step",
        extras="redis",
        on_redis=True,
    ),
    replace(
        sqlite.HUEY,
        name="huey, Redis",
        worker=sqlite.HUEY_WORKER,
        pace=5_000,
        promise="at most once (deleted, then run)",
        extras="redis",
        environment={},
        on_redis=True,
    ),
)
