"""One system on a fresh file: its worker, its client, its probe, and their end.

    with stage.session(system) as session:
        session.client.ask("fill", task="noop", count=1000, within=60)
        with session.worker(2):
            session.run_until(1000, within=60)

Leaving the blocks ends every process they started and removes the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import shutil
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import apps, probe
from bench.processes import Command, MeasureError, Process, cpu_seconds
from bench.system import PROCESSES, SCRIPTS, URL, System
from bench.venvs import CACHE, python_of
from tests.servers import rabbitmq_server, redis_server

#: Seconds between looks at the probe.
LOOK = 0.002
#: Seconds that a worker has to run its first task.
START = 30.0


class Remote:
    """The harness's end of a ``bench.client``."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._selector = selectors.DefaultSelector()
        assert process.popen.stdout is not None
        self._selector.register(process.popen.stdout, selectors.EVENT_READ)
        self._answer(60.0)

    def ask(self, do: str, *, within: float, **request: Any) -> dict[str, Any]:
        """Have something done; return its value. Raises MeasureError with its traceback."""
        self.begin(do, **request)
        return self.finish(within)

    def begin(self, do: str, **request: Any) -> None:
        """Have something done, while we do something else."""
        stdin = self._process.popen.stdin
        assert stdin is not None
        stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
        stdin.flush()

    def finish(self, within: float) -> dict[str, Any]:
        """Return the value of what was begun."""
        answer = self._answer(within)
        if "error" in answer:
            raise MeasureError(answer["error"])
        value: dict[str, Any] = answer["value"]
        return value

    def _answer(self, within: float) -> dict[str, Any]:
        stdout, line = self._process.popen.stdout, b""
        assert stdout is not None
        deadline = time.monotonic() + within
        while not line.endswith(b"\n"):
            if not self._selector.select(max(deadline - time.monotonic(), 0.0)):
                raise MeasureError(f"no answer within {within:.0f} s: {self._process.tail()}")
            part = os.read(stdout.fileno(), 1 << 20)
            if not part:
                raise MeasureError(f"the client ended: {self._process.tail()}")
            line += part
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True, slots=True)
class Spent:
    """What running tasks took. ``rate`` is from the first to the last of them."""

    tasks: int
    rate: float
    #: CPU seconds of all the worker's processes a task, and of the Redis, if there is one.
    cpu: float
    server: float = math.nan


class Session:
    """Owned by the harness's main thread."""

    def __init__(
        self,
        system: System,
        folder: Path,
        *,
        coroutines: bool,
        urls: dict[str, str],
        server_pid: int = -1,
    ) -> None:
        self.system = system
        #: The Redis; -1 = there is none.
        self.server_pid = server_pid
        self._folder = folder
        python = python_of(system)
        self._environment = {
            # Some start "python" for their processes.
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            apps.FILE: str(folder / "queue.sqlite"),
            apps.COROUTINES: "1" if coroutines else "0",
            probe.VARIABLE: str(folder / "probe"),
            **urls,
            **system.environment,
        }
        self._python = str(python)
        self.probe = probe.Probe(folder / "probe")
        self._client = Process(
            self._command("client", "-m", "bench.client", system.module), piped=True
        )
        try:
            self.client = Remote(self._client)
        except BaseException:
            self._client.end()
            raise

    @contextlib.contextmanager
    def worker(self, processes: int, *options: str) -> Generator[Process]:
        """Run a worker with so many processes, and further options, as long as the block lasts."""
        scripts = str(Path(self._python).parent)
        argv = [
            each.replace(PROCESSES, str(processes))
            .replace(SCRIPTS, scripts)
            .replace(URL, self._environment.get(apps.URL, ""))
            for each in self.system.worker
        ]
        self._environment[apps.CONCURRENCY] = str(processes)
        worker = Process(self._command("worker", *argv, *options))
        try:
            yield worker
        finally:
            worker.end()

    @contextlib.contextmanager
    def beside(self, name: str, *argv: str, **environment: str) -> Generator[Process]:
        """Run another program of the system as long as the block lasts."""
        self._environment.update(environment)
        scripts = str(Path(self._python).parent)
        process = Process(self._command(name, *(each.replace(SCRIPTS, scripts) for each in argv)))
        try:
            yield process
        finally:
            process.end()

    @property
    def broker(self) -> str:
        """The URL of what is measured."""
        return self._environment.get(apps.URL) or f"sqlite:///{self._environment[apps.FILE]}"

    def drain(self, count: int, worker: Process, *, within: float) -> Spent:
        """Wait until so many tasks have run and their results are stored; say what it took."""
        deadline = time.monotonic() + within
        before = self.wait_for(1, worker, within=START)
        watched = (worker.popen.pid, self.server_pid)
        cpu, server = map(cpu_seconds, watched)
        self.wait_for(count, worker, within=deadline - time.monotonic())
        self.verify()
        after = tuple(map(cpu_seconds, watched))
        seconds = (self.last() - min(slot.first for slot in self.probe.slots())) / 1e9
        tasks = max(count - before, 1)
        spent = (after[0] - cpu) / tasks, (after[1] - server) / tasks
        return Spent(count, (count - 1) / seconds, *spent)

    def wait_for(self, count: int, worker: Process, *, within: float) -> int:
        """Wait until so many tasks have run since the last reset; return how many have."""
        deadline = time.monotonic() + within
        while (ran := self.probe.count()) < count:
            worker.check()
            if time.monotonic() > deadline:
                raise MeasureError(f"ran {ran} of {count} tasks in {within:.0f} s: {worker.tail()}")
            time.sleep(LOOK)
        return ran

    def verify(self) -> None:
        """Have the client compare the last calls' results."""
        if self.system.runs:
            self.client.ask("verify", timeout=30.0, within=40.0)

    def last(self) -> int:
        """Return when the last task ran, in nanoseconds of the monotonic clock."""
        return max(slot.last for slot in self.probe.slots())

    def warm_up(self, worker: Process, count: int) -> None:
        """Run a few tasks and forget them: every process has started, imported and connected."""
        self.client.ask("fill", task="noop", count=count, within=60.0)
        self.wait_for(count, worker, within=START)
        self.verify()
        self.probe.reset()

    def count(self, seconds: float) -> int:
        """Return how many trivial tasks this system runs in so many seconds, roughly."""
        return max(round(self.system.pace * seconds), 20)

    def close(self) -> None:
        """End the client."""
        self._client.end()

    def _command(self, name: str, *argv: str) -> Command:
        return Command(
            [self._python, *argv],
            self._environment,
            self._folder,
            self._folder / f"{name}.log",
            self.system.stop,
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """Where sessions are held, and how much work they get."""

    #: Factor on every case's seconds of work.
    scale: float
    #: Seconds that each reply of a Redis takes longer.
    distance: float = 0.0

    @contextlib.contextmanager
    def session(self, system: System, *, coroutines: bool = False) -> Generator[Session]:
        """Open a session on a fresh file, on the disk that the project lies on, or a new server."""
        folder = CACHE / f"run-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            urls, server_pid = dict[str, str](), -1
            if system.on_redis:
                server = stack.enter_context(redis_server(folder / "redis"))
                server_pid = server.pid
                url = stack.enter_context(_far(server.url, self.distance, folder))
                urls[apps.RESULTS if system.on_rabbitmq else apps.URL] = url
            if system.on_rabbitmq:
                urls[apps.URL] = stack.enter_context(rabbitmq_server(folder / "rabbitmq")).url
            session = Session(
                system, folder, coroutines=coroutines, urls=urls, server_pid=server_pid
            )
            stack.callback(session.close)
            yield session


@contextlib.contextmanager
def _far(url: str, seconds: float, folder: Path) -> Generator[str]:
    """Return where a server is reached whose replies take so much longer."""
    if not seconds:
        yield url
        return
    place, _, database = url.removeprefix("redis://").partition("/")
    argv = [sys.executable, "-m", "bench.distance", place, str(seconds)]
    proxy = Process(Command(argv, {}, folder, folder / "distance.log"), piped=True)
    try:
        assert proxy.popen.stdout is not None
        yield f"redis://127.0.0.1:{int(proxy.popen.stdout.readline())}/{database}"
    finally:
        proxy.end()
