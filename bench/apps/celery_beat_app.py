"""Celery with a schedule: so many entries, each due every second."""

from __future__ import annotations

import os

from bench.apps.celery_app import app

app.conf.beat_schedule = {
    f"entry {number}": {"task": "noop", "schedule": 1.0, "args": (number,)}
    for number in range(int(os.environ["BENCH_EVERY"]))
}
