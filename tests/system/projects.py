"""A user's project in a folder of its own, and the ``umbel`` program run in it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TypeVar

from tests.servers import Server, running

T = TypeVar("T")

#: Seconds one command may take.
TIMEOUT = 60.0
UMBEL = (sys.executable, "-m", "umbel")


class Project:
    """Files of a project, its environment, its commands."""

    def __init__(self, folder: Path, tasks: str = "", **environment: str) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        self.environment = {
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        self.write("pyproject.toml", "")  # so that no folder above counts as the project
        if tasks:
            self.write("tasks.py", tasks)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def umbel(
        self, *arguments: str, environment: Mapping[str, str] | None = None, answer: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``answer`` is typed into it."""
        return subprocess.run(
            [*UMBEL, *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment, **(environment or {})},
            input=answer,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def out(self, *arguments: str) -> str:
        """Run a command to its good end; return what it printed, without the line's end."""
        done = self.umbel(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout.removesuffix("\n")

    @contextlib.contextmanager
    def worker(self, *arguments: str) -> Generator[Server]:
        """Run ``umbel ARGUMENTS``, a worker, for the length of a block, which begins when ready."""
        log = self.folder / "worker.log"
        server = Server(
            [*UMBEL, *arguments],
            url="worker",
            log=log,
            ready=lambda: any(line.endswith(" ready.") for line in log.read_text().splitlines()),
            environment=self.environment,
            directory=self.folder,
        )
        with running(server):
            yield server


def eventually(look: Callable[[], T], is_right: Callable[[T], bool], patience: float = 60.0) -> T:
    """Look until what is seen is right, and return it."""
    deadline = time.monotonic() + patience
    while not is_right(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found
