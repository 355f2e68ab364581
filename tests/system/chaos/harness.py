"""Runs a worker that is being killed, and accounts for every task afterwards."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.chaos.journal import Account, read

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Chaos:
    """One crash test."""

    broker: str
    directory: Path
    #: Gap -> probability of a kill each time a process gets there.
    faults: Mapping[str, float]
    mutant: str = ""
    concurrency: int = 2
    lease: float = 2.0
    slowness: float = 0.0
    #: Random kills charge the innocent now and then; none shall use up its budget by that.
    max_deliveries: int = 1000
    #: Where results are; "" = with the broker.
    results: str = ""

    @property
    def store(self) -> str:
        return self.results or self.broker

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def has_run(self) -> bool:
        """Tell whether some task ran."""
        return bool(read(self.journal).runs)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CHAOS_BROKER": self.broker,
            "CHAOS_RESULTS": self.store,
            "CHAOS_JOURNAL": str(self.journal),
            "CHAOS_FAULTS": json.dumps(dict(self.faults)),
            "CHAOS_MUTANT": self.mutant,
            "CHAOS_C": str(self.concurrency),
            "CHAOS_LEASE": str(self.lease),
            "CHAOS_SLOWNESS": str(self.slowness),
            "CHAOS_MAX_DELIVERIES": str(self.max_deliveries),
        }


class WorkerProcess:
    """A worker in a process of its own, with its output in a file."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self.output = chaos.directory / f"worker-{time.monotonic_ns()}.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.chaos.app"],
                cwd=ROOT,
                env=chaos.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def children(self) -> list[int]:
        """Return the pids of the supervisor's children, the node's among them."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in path.read_text().split()]
        except FileNotFoundError:
            return []

    def wait_until_ready(self) -> None:
        wait_until(
            lambda: "ready." in self.output.read_text(), timeout=30, why=self.output.read_text
        )

    def stop(self) -> None:
        """End it and whatever it left."""
        family = [*self.children(), self.process.pid]
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            for pid in family:
                kill(pid)
            self.process.wait(5)


@contextmanager
def worker(chaos: Chaos) -> Generator[WorkerProcess]:
    process = WorkerProcess(chaos)
    try:
        yield process
    finally:
        process.stop()


def pause(chaos: Chaos, family: Sequence[int]) -> None:
    """Stop processes, but none while it has SQLite's file for itself: all others would wait."""
    while True:
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(_is_stopped(pid) for pid in family), timeout=60, why=str)
        if _turn_is_free(chaos):
            return
        for pid in family:
            os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in ("T", "Z")


def _turn_is_free(chaos: Chaos) -> bool:
    path = Path(f"{chaos.broker.removeprefix('sqlite:///')}-lock")
    if not path.exists():
        return True
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(what: Callable[[], bool], *, timeout: float, why: Callable[[], str]) -> None:
    """Wait for a state that no event announces, because its processes are being killed."""
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {why()}")
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the tasks."""

    accepted: int
    account: Account
    #: Accepted tasks that never ran, without a result, or whose follow-up did not run.
    lost: list[str]
    missing_results: list[str]
    #: Nothing waits or is held any more, so what is missing will not come.
    quiet: bool
    wrong_results: list[str]
    forked: list[str]

    @property
    def duplicates(self) -> int:
        """Runs beyond the first of each task."""
        return sum(self.account.runs.values()) - len(self.account.runs)

    def __str__(self) -> str:
        kills = ", ".join(f"{gap} {n}" for gap, n in sorted(self.account.kills.items()))
        return (
            f"{self.accepted} accepted, {len(self.lost)} lost, "
            f"{len(self.missing_results)} without result, {len(self.forked)} forked, "
            f"{self.duplicates} run again; kills: {kills or 'none'}"
        )


def verdict(chaos: Chaos, results: Mapping[int, tuple[str, Any]], *, quiet: bool) -> Verdict:
    """Compare the journal with what the callers were told: number -> (state, value)."""
    account = read(chaos.journal)
    return Verdict(
        accepted=len(results),
        account=account,
        lost=[str(n) for n in results if not account.runs[str(n)]],
        quiet=quiet,
        missing_results=[str(n) for n, (state, _) in results.items() if state == "PENDING"],
        wrong_results=[
            str(n)
            for n, (state, value) in results.items()
            if state != "PENDING" and (state, value) != ("SUCCESS", n * 2)
        ],
        forked=[n for n, ids in account.follow_ups.items() if len(ids) > 1],
    )
