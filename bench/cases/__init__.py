"""What is measured, in the order of the tables."""

from __future__ import annotations

from bench.cases import (
    backlog,
    coroutines,
    drain,
    enqueue,
    footprint,
    latency,
    payloads,
    publisher,
)

CASES = (
    drain.CASE,
    enqueue.CASE,
    publisher.CASE,
    payloads.CASE,
    coroutines.CASE,
    latency.CASE,
    backlog.CASE,
    footprint.CASE,
)
