"""Celery on Redis or RabbitMQ; late acknowledgement and results make its promise like ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, group

from bench import apps
from bench.tasks import TASKS

app: Any = Celery("bench", broker=apps.url(), backend=apps.results())
app.conf.broker_connection_retry_on_startup = True
if os.environ.get("BENCH_DEFAULTS") != "1":
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=64)
if apps.on_rabbitmq():
    app.conf.broker_transport_options = {"confirm_publish": True}
registered = {name: app.task(name=name)(function) for name, function in TASKS.items()}


def sender(task: str) -> Callable[..., Any]:
    """Return the task's ``delay``."""
    delay: Callable[..., Any] = registered[task].delay
    return delay


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send a group."""
    signature = registered[task].s
    return list(group(signature(*args) for args in calls).apply_async().results)


def wait(handle: Any, timeout: float) -> Any:
    """Wait for the result."""
    return handle.get(timeout=timeout)
