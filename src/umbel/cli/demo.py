"""``umbel demo``: umbel at work on something real, every module of Python's standard library.

It is a program like any other that uses umbel. It starts ``umbel worker`` as a process of its own,
sends a group of tasks (they are in ``demo_tasks``), and takes the results as they come. Broker and
results are a SQLite file in a temporary folder. Whatever ends the demo, its worker is stopped and
the folder deleted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

import click
from rich.console import Console

from umbel.canvas import group
from umbel.cli.demo_report import Report, print_report, shown_progress
from umbel.cli.demo_tasks import Analysis, analyse, app
from umbel.cli.given import given, output_options
from umbel.cli.numbers import Whole
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TimeoutError as ResultTimeout
from umbel.result import AsyncResult, ResultSet
from umbel.worker.cpus import available_cpus

#: Seconds between two looks at whether the worker still lives.
LOOK = 2.0
#: Seconds that the worker has to end.
PATIENCE = 10.0
#: Folders of the standard library that are no part of it.
_NOT_MODULES = frozenset(("__pycache__", "test", "tests", "idle_test", "site-packages"))


@click.command("demo")
@output_options
@click.option("--modules", type=Whole(min=1), help="Analyse only this many modules.")
@click.option(
    "-c",
    "--concurrency",
    type=Whole(min=1),
    help="Worker processes; otherwise one for each CPU, at least two.",
)
@click.pass_context
def command(ctx: click.Context, /, *, modules: int | None, concurrency: int | None) -> None:
    """Analyse every module of Python's standard library with tasks on several processes.

    Broker and results are a SQLite file in a temporary folder. Nothing is left behind.
    """
    color = given(ctx).color
    console = Console(no_color=color is False, highlight=False)
    found = list(standard_library())[:modules]
    processes = concurrency or max(2, available_cpus())
    signal.signal(signal.SIGTERM, _interrupt)
    with temporary_folder() as folder:
        broker = f"sqlite:///{folder / 'broker.sqlite'}"
        with DemoWorker(broker, processes, log=folder / "worker.log") as worker:
            report = analyse_all(found, worker, console)
    print_report(report, console)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def temporary_folder() -> Generator[Path]:
    """Give a folder for the length of a block; it is the current one, as no project is there."""
    with tempfile.TemporaryDirectory(prefix="umbel-demo-") as name, contextlib.chdir(name):
        yield Path(name)


class Module(NamedTuple):
    """A module by its dotted name, and where its source is."""

    name: str
    path: Path


def standard_library() -> Iterator[Module]:
    """Yield every module of the standard library that is written in Python."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names and not _NOT_MODULES.intersection(parts):
            yield Module(".".join(parts).removesuffix(".__init__"), path)


class DemoWorker:
    """A worker in processes of its own. Owned by the main thread."""

    def __init__(self, broker: str, processes: int, *, log: Path) -> None:
        self.broker = broker
        self.processes = processes
        self._log = log
        self.arguments = [
            "worker",
            "-A",
            "umbel.cli.demo_tasks",
            "-b",
            broker,
            "-c",
            str(processes),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it; it is not ready yet, but what is sent to it waits."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- ourselves
                [sys.executable, "-m", "umbel", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we tell it to end
            )
        return self

    def check(self) -> None:
        """Raise ClickException if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip()
            raise click.ClickException(f"the worker ended too early: {said[-2000:]}")

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def analyse_all(modules: Sequence[Module], worker: DemoWorker, console: Console) -> Report:
    """Send a task for each module; return what they found."""
    app.conf.set_layer("command line", {"broker_url": worker.broker}, source="the demo")
    monotonic = SYSTEM_CLOCK.monotonic
    begun = monotonic()
    with app:
        calls = group(analyse.s(str(each.path), each.name) for each in modules)
        results = calls.apply_async()
        sent = monotonic()
        first = 0.0
        for _ in shown_progress(as_completed(results, worker), len(modules), console):
            first = first or monotonic()
        ended = monotonic()
    outcomes = [(each, result.result) for each, result in zip(modules, results, strict=True)]
    return Report(
        analyses=tuple(found for _, found in outcomes if not isinstance(found, BaseException)),
        failed={each.name: error for each, error in outcomes if isinstance(error, BaseException)},
        sending=sent - begun,
        waiting=first - begun,
        total=ended - begun,
        worker=" ".join(["umbel", *worker.arguments]),
        broker=worker.broker,
    )


def as_completed(
    results: ResultSet[Analysis], worker: DemoWorker
) -> Iterator[AsyncResult[Analysis]]:
    """Yield results as they come, as long as there is a worker that makes them."""
    pending = dict.fromkeys(results)
    while pending:
        try:
            for result in ResultSet(pending).as_completed(LOOK):
                del pending[result]
                yield result
        except ResultTimeout:
            worker.check()
