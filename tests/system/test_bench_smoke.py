"""The benchmarks still run: their smoke run measures umbel and the bare loop, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "bench", "--quick"]


@pytest.mark.parametrize(
    ("cases", "systems"),
    [
        (("drain", "enqueue", "latency"), ("umbel", "bare, results")),
        pytest.param(
            ("redis-drain-far", "redis-enqueue", "redis-latency", "canvas"),
            ("umbel, Redis", "bare, results, Redis"),
            marks=pytest.mark.servers,
        ),
        pytest.param(
            ("rabbitmq-drain", "rabbitmq-enqueue", "rabbitmq-latency"),
            ("umbel, RabbitMQ, rpc", "bare, RabbitMQ, rpc"),
            marks=pytest.mark.servers,
        ),
    ],
)
def test_the_smoke_run_measures_umbel_and_the_bare_loop(
    cases: tuple[str, ...], systems: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [*COMMAND, *cases, "--systems", *systems],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(f"| {systems[0]} ")]
    assert len(rows) == len(cases)
    assert "failed" not in done.stdout
