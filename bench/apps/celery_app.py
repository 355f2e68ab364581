"""Celery on Redis or RabbitMQ; late acknowledgement and results make its promise like ours."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chain, chord, group

from bench import apps
from bench.workflows import Workflows

app: Any = Celery("bench", broker=apps.url(), backend=apps.results())
app.conf.broker_connection_retry_on_startup = True
if os.environ.get("BENCH_DEFAULTS") != "1":
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=64)
if apps.on_rabbitmq():
    app.conf.broker_transport_options = {"confirm_publish": True}
tasks = {name: app.task(name=name)(function) for name, function in apps.functions().items()}
workflow = Workflows(chain, group, chord, tasks).send
calls = apps.CeleryCalls(tasks, group)
sender, send_many, wait = calls.sender, calls.send_many, calls.wait
