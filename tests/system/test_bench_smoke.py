"""The benchmarks still run: their smoke run measures umbel and the bare loop, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "bench", "--quick", "drain", "enqueue", "latency"]


def test_the_smoke_run_measures_umbel_and_the_bare_loop() -> None:
    done = subprocess.run(
        [*COMMAND, "--systems", "umbel", "bare, results"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| umbel ")]
    assert len(rows) == 3
    assert "failed" not in done.stdout
