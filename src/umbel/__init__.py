"""umbel: a distributed task queue that speaks Celery's language."""

from __future__ import annotations

from umbel.app import Umbel, shared_task
from umbel.canvas import (
    Signature,
    chain,
    chord,
    chunks,
    group,
    maybe_signature,
    signature,
    xmap,
    xstarmap,
)
from umbel.context import current_app, current_task
from umbel.log import get_task_logger
from umbel.result import AsyncResult, EagerResult, GroupResult, ResultSet
from umbel.routing import Broadcast
from umbel.task import Task
from umbel.topology import Exchange, Queue
from umbel.version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncResult",
    "Broadcast",
    "EagerResult",
    "Exchange",
    "GroupResult",
    "Queue",
    "ResultSet",
    "Signature",
    "Task",
    "Umbel",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "get_task_logger",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "xmap",
    "xstarmap",
]
