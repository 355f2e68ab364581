"""Workers on SQLite, started as users start them, each with a client of its broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.system.chaos.harness import kill, wait_until
from umbel import Umbel


class Running:
    """A worker process and a client of its broker."""

    def __init__(self, directory: Path, app: Umbel, process: subprocess.Popen[bytes]) -> None:
        self.app = app
        self.process = process
        self.directory = directory
        self.log = directory / "worker.log"

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def stop(self, signum: int = signal.SIGTERM) -> None:
        self.process.send_signal(signum)
        assert self.process.wait(60) == 0, self.log.read_text()


Start = Callable[..., AbstractContextManager[Running]]


@contextmanager
def started(
    directory: Path, tasks: str, *options: str, patience: float = 8.0
) -> Generator[Running]:
    """Run a worker of these tasks, which take its broker from BROKER, while the block runs."""
    (directory / "tasks.py").write_text(tasks)
    url = f"sqlite:///{directory}/broker.sqlite"
    log = directory / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "umbel.cli.main", "worker", "-A", "tasks", *options],
            cwd=directory,
            env={**os.environ, "BROKER": url, "PATIENCE": str(patience)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with Umbel("client", broker=url, set_as_current=False) as app:
        running = Running(directory, app, process)
        try:
            wait_until(lambda: "ready." in log.read_text(), timeout=60, why=log.read_text)
            yield running
        finally:
            family = [] if process.poll() is not None else [*running.children(), process.pid]
            for pid in family:
                kill(pid)
            process.wait(5)
