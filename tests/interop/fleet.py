"""Workers and clients of both kinds, of one application that either library can run."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from umbel import Umbel
from umbel.clock import SYSTEM_CLOCK

#: Seconds until what must happen fails the test.
PATIENCE = 60.0

APPLICATION = """
import json, os, time

SIDE = os.environ["SIDE"]
if SIDE == "umbel":
    from umbel import Umbel as Application
else:
    from celery import Celery as Application

app = Application("fleet", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(json.loads(os.environ["SETTINGS"]))
if "NEWS" in os.environ:
    if SIDE == "umbel":
        from umbel import Broadcast, Queue
    else:
        from kombu import Queue
        from kombu.common import Broadcast
    app.conf.task_queues = [Queue("celery"), Broadcast("news")]
if SIDE == "celery":
    app.conf.broker_connection_retry_on_startup = True

@app.task(name="fleet.add")
def add(x, y):
    return x + y

@app.task(name="fleet.total")
def total(numbers):
    return sum(numbers)

@app.task(name="fleet.who")
def who():
    return SIDE

@app.task(name="fleet.told")
def told(*said):
    return [*said, SIDE]

@app.task(name="fleet.fail")
def fail(why):
    raise LookupError(why)

@app.task(name="fleet.insist", bind=True)
def insist(self, times):
    if self.request.retries < times:
        raise self.retry(countdown=0.2, max_retries=times)
    return [self.request.retries, SIDE]

@app.task(name="fleet.address", bind=True)
def address(self):
    info = self.request.delivery_info
    return [info["exchange"], info["routing_key"]]

@app.task(name="fleet.sleep", acks_late=True)
def sleep(seconds, file):
    with open(file, "a") as begun:
        begun.write(f"{SIDE} {os.getpid()}\\n")
    time.sleep(seconds)
    return SIDE

@app.task(name="fleet.note")
def note(file, word):
    with open(file, "a") as written:
        written.write(word + "\\n")
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One application on one namespace of a broker, and where its results are."""

    url: str
    folder: Path
    settings: str = "{}"
    #: "" = with the broker.
    results: str = ""
    #: Workers get what is broadcast to "news", too.
    news: bool = False

    @property
    def backend(self) -> str:
        """Where its results are, as both libraries name it."""
        return self.results or self.url

    @property
    def begun(self) -> Path:
        """Where `fleet.sleep` says that it has begun."""
        return self.folder / "begun"

    @contextmanager
    def worker(
        self, side: str, *options: str, ready: str = "ready."
    ) -> Generator[subprocess.Popen[bytes]]:
        """Run a worker of that library, from when it is ready until the end of the block."""
        log = self.folder / f"{side}-{SYSTEM_CLOCK.monotonic()}.log"
        words = [sys.executable, "-m", side, "-A", "fleet", "worker", "-l", "INFO", *options]
        if side == "umbel":
            words = [sys.executable, "-m", side, "worker", "-A", "fleet", "-l", "info", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env={
                    **os.environ,
                    "SIDE": side,
                    "BROKER": self.url,
                    "BACKEND": self.backend,
                    "SETTINGS": self.settings,
                    **({"NEWS": "1"} if self.news else {}),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            until(lambda: ready in log.read_text() or process.poll() is not None, log.read_text)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)
            print(log.read_text())


def new_fleet(url: str, folder: Path, settings: str = "{}", *, results: str = "") -> Fleet:
    """Write the application."""
    (folder / "fleet.py").write_text(APPLICATION)
    return Fleet(url, folder, settings, results)


@contextmanager
def umbel_client(url: str, backend: str = "", **settings: Any) -> Generator[Umbel]:
    """Return an application of ours that knows none of the tasks."""
    results = backend or url
    with Umbel("client", broker=url, backend=results, set_as_current=False, **settings) as app:
        yield app


@contextmanager
def celery_client(url: str, backend: str = "", **settings: Any) -> Generator[Any]:
    """Return an application of theirs that knows none of the tasks."""
    celery: Any = import_module("celery")
    results = backend or url
    app = celery.Celery("client", broker=url, backend=results, set_as_current=False, fixups=[])
    app.conf.update(settings)
    yield app
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # theirs
        gc.collect()  # their results end their subscriptions when they are collected
    app.backend.result_consumer.stop()
    import_module("kombu.pools").reset()
    app.close()


def until(what: Any, why: Any = lambda: "") -> None:
    """Wait for a state of another process that no event tells."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while not what():
        assert SYSTEM_CLOCK.monotonic() < deadline, why()
        SYSTEM_CLOCK.sleep(0.02)


# --- workflows of either library


def chain(app: Any, *steps: Any) -> Any:
    """Send a chain of the application's library."""
    return _canvas(app).chain(*steps).apply_async()


def group(app: Any, members: list[Any]) -> Any:
    """Send a group of the application's library."""
    return _canvas(app).group(members).apply_async()


def _canvas(app: Any) -> Any:
    return import_module("umbel" if isinstance(app, Umbel) else "celery")


def chained(app: Any) -> int:
    """Return 1 + 2 + 4 + 8 by a chain."""
    add = [app.signature("fleet.add", args) for args in ((1, 2), (4,), (8,))]
    return int(chain(app, *add).get(timeout=PATIENCE))


def grouped(app: Any) -> list[int]:
    """Return [0, 2, 4] by a group."""
    members = [app.signature("fleet.add", (n, n)) for n in range(3)]
    return list(group(app, members).get(timeout=PATIENCE))
