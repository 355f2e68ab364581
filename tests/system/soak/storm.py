"""The soak: workers at full rate while everything happens to them that may happen.

Two workers consume one queue. In the *storm* children are replaced after so many tasks, their
number follows the load, and random signals come: KILL to a child or the node, USR1, HUP and TERM to
the worker, which is started again. The *calm* one is left alone: its processes live from the
beginning to the end, and what they leak can be seen. In a long soak the sender rests now and then,
so that the storm's worker shrinks and grows again.

    make soak MINUTES=15        or        python -m tests.system.soak --minutes 15 --broker redis

Afterwards every task that was accepted must have run, and nothing that was watched may have grown.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from tests.system.chaos.harness import ROOT, kill, wait_until
from tests.system.soak.watching import Series, Watch, children
from umbel import Umbel, group

#: Tasks sent at once, and how many may wait.
BATCH, BACKLOG = 200, 2000
#: Tasks after which a child of the storm is replaced.
MAX_TASKS = 1000
#: Seconds between two events of the storm, and how often each comes.
PAUSE = 1.0
EVENTS = {"KILL": 10, "USR1": 3, "HUP": 3, "TERM": 2}
#: Seconds of work and of rest; in the latter the storm shrinks (see ``worker.autoscale``).
WORK, REST = 120.0, 35.0
#: Seconds in which all that was accepted must have run when the storm is over.
PATIENCE = 60.0

_STORM = ("--autoscale", "3,1", "--max-tasks-per-child", str(MAX_TASKS))
_CALM = ("-c", "1")
_READY = " ready."


@dataclass(frozen=True, slots=True)
class Soaked:
    """What became of it."""

    seconds: float
    accepted: int
    runs: int
    lost: list[int]
    #: Lines of the workers' logs that should not be there.
    errors: list[str]
    events: Counter[str]
    series: list[Series]

    @property
    def grown(self) -> list[str]:
        return [str(each) for each in self.series if not each.is_flat]

    def __str__(self) -> str:
        events = ", ".join(f"{what} {count}" for what, count in sorted(self.events.items()))
        lines = [
            f"{self.accepted} tasks in {self.seconds:.0f} s, {self.accepted / self.seconds:.0f}/s",
            f"{len(self.lost)} lost, {self.runs - self.accepted} run again",
            f"events: {events}",
            *map(str, self.series),
            *(f"in a log: {line}" for line in self.errors[:20]),
        ]
        return "\n".join(lines)


class Soaking:
    """A worker that is started, watched and stopped. Owned by the main thread."""

    def __init__(self, name: str, folder: Path, broker: str, options: tuple[str, ...]) -> None:
        self.watch = Watch(name)
        self.log = folder / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "umbel", "-A", "tests.system.soak.app", "worker"),
            *("-n", f"{name}@soak", *options),
        ]
        self._environment = {
            **os.environ,
            "SOAK_BROKER": broker,
            "SOAK_JOURNAL": str(folder / "journal"),
        }
        self.start()

    def start(self) -> None:
        """Start it and return when it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until_ready(self._starts() + 1)

    def wait_until_ready(self, starts: int) -> None:
        """Return when it has been ready so many times."""
        wait_until(lambda: self._starts() >= starts, timeout=60, why=self.log.read_text)

    def _starts(self) -> int:
        return self.log.read_text().count(_READY)

    def happen(self, event: str) -> None:
        """Let one of the events happen to it, and return when it works again."""
        if event == "KILL":
            if family := children(self.process.pid):
                kill(random.choice(family))
            return
        starts = self._starts()
        self.process.send_signal(signal.Signals[f"SIG{event}"])
        if event == "TERM":
            assert self.process.wait(30) == 0, self.log.read_text()
            self.start()
        elif event == "HUP":
            self.wait_until_ready(starts + 1)

    def stop(self) -> None:
        """End it as operators do; it must take that well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()

    def kill(self) -> None:
        """Leave nothing of it behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def errors(self) -> list[str]:
        """Return what its log should not have."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "Traceback" in line or "Error: " in line]


class Sender:
    """Sends as fast as the workers work. Its thread owns it; the others read ``accepted``."""

    def __init__(self, app: Umbel, *, rests: bool) -> None:
        self.accepted = 0
        self.error: BaseException | None = None
        self._app = app
        self._rests = rests
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Send no more; raise what went wrong."""
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def waiting(self) -> int:
        """Return how many messages wait or are held."""
        depth = self._app.servers().broker.transport.depth(["celery"])
        return sum(each.ready + each.delayed + each.held for each in depth.values())

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._stopping.wait(0.0 if self._may_send(began) else 0.01):
                if self._may_send(began):
                    self._send()
        except BaseException as error:  # noqa: BLE001 -- raised in the main thread
            self.error = error

    def _may_send(self, began: float) -> bool:
        at = (time.monotonic() - began) % (WORK + REST)
        return not (self._rests and at > WORK) and self.waiting() < BACKLOG

    def _send(self) -> None:
        numbers = range(self.accepted, self.accepted + BATCH)
        names = itertools.cycle(["soak.work"] * 30 + ["soak.doze"] * 9 + ["soak.hesitate"])
        tasks = zip(names, numbers, strict=False)
        group(self._app.signature(name, (number,)) for name, number in tasks).delay()
        self.accepted += BATCH


def soak(folder: Path, broker: str, *, minutes: float) -> Soaked:
    """Soak for so long."""
    events: Counter[str] = Counter()
    with (
        Umbel("sender", broker=broker, set_as_current=False) as app,
        _worker("storm", folder, broker, _STORM) as storm,
        _worker("calm", folder, broker, _CALM) as calm,
    ):
        sender = Sender(app, rests=minutes * 60 > WORK + REST)
        began = time.monotonic()
        try:
            _blow(storm, calm, events, until=began + minutes * 60)
        finally:
            sender.stop()
        seconds = time.monotonic() - began
        waits = sender.waiting
        wait_until(lambda: not waits(), timeout=PATIENCE, why=lambda: f"{waits()} wait")
        storm.stop()
        calm.stop()
    numbers = memoryview((folder / "journal").read_bytes()).cast("Q")
    ran = bytearray(sender.accepted)
    for number in numbers:
        ran[number] = True
    return Soaked(
        seconds=seconds,
        accepted=sender.accepted,
        runs=len(numbers),
        lost=[number for number, has_run in enumerate(ran) if not has_run],
        errors=storm.errors() + calm.errors(),
        events=events,
        series=[*storm.watch, *calm.watch],
    )


def _blow(storm: Soaking, calm: Soaking, events: Counter[str], *, until: float) -> None:
    began = time.monotonic()
    while (now := time.monotonic()) < until:
        for worker in (storm, calm):
            worker.watch.look(worker.process.pid, (now - began) / 60)
        (event,) = random.choices([*EVENTS], [*EVENTS.values()])
        storm.happen(event)
        events[event] += 1
        time.sleep(max(now + PAUSE - time.monotonic(), 0.0))


@contextlib.contextmanager
def _worker(name: str, folder: Path, broker: str, options: tuple[str, ...]) -> Generator[Soaking]:
    worker = Soaking(name, folder, broker, options)
    try:
        yield worker
    finally:
        worker.kill()
