"""All who are measured: how each is installed and started, and what it promises."""

from __future__ import annotations

from bench.rabbitmq_systems import ON_QUORUM, ON_RABBITMQ
from bench.redis_systems import CELERY_AS_IT_IS, ON_REDIS
from bench.sqlite_systems import FLEXIQ_THREADS, ON_SQLITE
from bench.system import System

SYSTEMS = (*ON_SQLITE, FLEXIQ_THREADS, *ON_REDIS, CELERY_AS_IT_IS, *ON_RABBITMQ, *ON_QUORUM)
#: Measured by every case that names no others.
USUAL = tuple(system.name for system in ON_SQLITE)
#: Those of them that run tasks and store their results.
QUEUES = tuple(system.name for system in ON_SQLITE if system.runs)


def named(names: tuple[str, ...]) -> list[System]:
    """Return the systems of these names, in the order of the table."""
    return [system for system in SYSTEMS if system.name in names]
