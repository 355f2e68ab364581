"""From the command line to a running worker.

The application is imported in the process that becomes the supervisor, before the first fork: its
children then share the memory of all that was imported. What is garbage by then is collected and
the rest frozen, so that no collector of a child touches, and thereby copies, those pages.

A fork copies memory but only the thread that calls it. Had another one held a lock (a client that
was made at import, an exporter of metrics), a child would wait for that lock for ever. So, when the
import has started threads, this process replaces itself by a fresh one that does not import the
application: it supervises only, and each child imports for itself, after the fork. All that the
fresh process must know (how many children, how patient to be) is handed over in one variable of the
environment. That costs memory and start time, nothing else, and the log says so.

Rejected: starting children with exec (a new interpreter each, and the board would need a file);
a fork server in between (a second parent, for the same price per child).
"""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, NoReturn

import click

from umbel import backoff, ids, signals
from umbel.app import Umbel
from umbel.cli.banner import banner
from umbel.cli.find_app import imported, importing
from umbel.cli.given import Given, open_app
from umbel.cli.logs import logger, set_up_logging, task_hooks
from umbel.clock import SYSTEM_CLOCK
from umbel.config import Config
from umbel.exceptions import ConnectionLost, ImproperlyConfigured, QueueNotFound
from umbel.settings.kinds import Later
from umbel.settings.table import TABLE
from umbel.worker.launch import Shape, Worker, WorkerOptions, supervise
from umbel.worker.processes import may_fork

#: Tells a process to supervise a worker of this shape without importing its application.
SHAPE_VARIABLE = "UMBEL_WORKER_SHAPE"
#: Seconds between the first two attempts to reach the broker at the start, and the most later.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of ``umbel worker``."""

    node: str
    queues: tuple[str, ...]
    exclude: tuple[str, ...]
    #: None = as configured.
    concurrency: int | None
    pool: Literal["prefork", "threads", "solo"] | None
    level: int
    include: tuple[str, ...]
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    autoscale: tuple[int, int] | None


def run_worker(given: Given, asked: Asked) -> int:
    """Run a worker to its end; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What tasks print shall be seen when it is printed, not when a buffer is full.
        sys.stdout.reconfigure(line_buffering=True)
    shape = os.environ.pop(SHAPE_VARIABLE, None)
    if shape is not None:
        return _supervise_only(given, asked, Shape(**json.loads(shape)))
    app = load_app(given, asked.include)
    _let_configure(app, asked)
    set_up_logging(app.conf, asked.level, color=given.color)
    _warn_of_settings(app)
    worker = make_worker(app, asked)
    if not given.quiet:
        click.echo(banner(worker, asked.level), color=given.color)
    signals.worker_init.send(worker)
    _reach_broker(app, [queue.name for queue in worker.queues])
    if worker.pool != "solo" and not may_fork():
        _start_over(worker.shape)
    gc.collect()
    gc.freeze()

    def announce() -> None:
        _say_ready(worker.node)
        signals.worker_ready.send(worker)
        _tell_of_the_end(worker)

    code = worker.run(announce)
    signals.worker_shutdown.send(worker)
    click.echo(f"{worker.node} stopped.")
    return code


def load_app(given: Given, include: Sequence[str] = ()) -> Umbel:
    """Import the application and all modules with its tasks."""
    app = open_app(given, required=True)
    for name in include:
        if imported(name) is None:
            raise click.UsageError(f"-I {name}: there is no such module")
    app.conf.current()  # what is wrong with it is no matter of these modules
    with importing("the application's modules (imports, include, autodiscover_tasks)"):
        app.import_default_modules()
    return app


def _take_workers_address(app: Umbel) -> None:
    url = app.conf.broker_read_url
    if url is not None:
        values = {"broker_url": url, "broker_write_url": None}
        app.conf.set_layer("command line", values, source="broker_read_url")


def _warn_of_settings(app: Umbel) -> None:
    names = ", ".join(name for name in app.conf.table() if isinstance(TABLE[name], Later))
    if names:
        logger.warning("These settings have no effect yet: %s", names)


def _let_configure(app: Umbel, asked: Asked) -> None:
    """Send ``celeryd_init``: its receivers may change the configuration before it is used."""
    signals.celeryd_init.send(
        ids.node_name(asked.node), instance=None, conf=app.conf, options=dataclasses.asdict(asked)
    )
    _take_workers_address(app)


def make_worker(app: Umbel, asked: Asked) -> Worker:
    """Make the worker that was asked for."""
    before, after = task_hooks(app.tasks)
    options = WorkerOptions(
        node=asked.node,
        queues=asked.queues,
        exclude=asked.exclude,
        concurrency=asked.concurrency or 0,
        pool=asked.pool,
        autoscale=asked.autoscale,
        max_tasks_per_child=asked.max_tasks_per_child,
        max_memory_per_child=asked.max_memory_per_child,
        before=before,
        after=after,
    )
    try:
        worker = Worker(app, options)
    except (ImproperlyConfigured, QueueNotFound) as error:  # -n, -Q, -X make no sense here
        raise click.UsageError(str(error)) from error
    signals.celeryd_after_setup.send(worker.node, instance=worker, conf=app.conf)
    return worker


def _tell_of_the_end(worker: Worker) -> None:
    """Send ``worker_shutting_down`` when a signal first asks for the end.

    Called where the worker has installed what it does then, which follows.
    """
    if not signals.worker_shutting_down.has_receivers(worker.node):
        return
    told = False

    def wrapped(follows: Any) -> Callable[[int, FrameType | None], None]:
        def tell(signum: int, frame: FrameType | None) -> None:
            nonlocal told
            if not told:
                told = True
                how = "Cold" if signum == signal.SIGQUIT else "Warm"
                name = signal.Signals(signum).name
                signals.worker_shutting_down.send(worker.node, sig=name, how=how, exitcode=0)
            follows(signum, frame)

        return tell

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, wrapped(signal.getsignal(signum)))


def _say_ready(node: str) -> None:
    click.echo(f"{node} ready.")


def _reach_broker(app: Umbel, queues: Sequence[str]) -> None:
    """Return when the broker answers; raises TransportError if it is not worth waiting for it."""
    transport = app.servers().broker.transport
    begun, attempt = SYSTEM_CLOCK.monotonic(), 0
    while True:
        try:
            transport.depth(queues)
            break
        except ConnectionLost as error:
            most = app.conf.broker_connection_max_retries
            given_up = most is not None and attempt >= most
            if given_up or not app.conf.broker_connection_retry_on_startup:
                raise
            if not attempt:
                logger.error("The broker does not answer, waiting for it: %s", error)
            pause = backoff.exponential(attempt, FIRST_PAUSE, maximum=LONGEST_PAUSE, jitter=False)
            attempt += 1
            SYSTEM_CLOCK.sleep(pause)
    if attempt:
        logger.warning("The broker answers after %.1fs", SYSTEM_CLOCK.monotonic() - begun)
    app.close()  # children open connections of their own


# -- when the application has threads --------------------------------------------------------------


def _start_over(shape: Shape) -> NoReturn:
    names = [thread.name for thread in threading.enumerate()[1:]] or ["some of a C library"]
    logger.warning(
        "Importing the application started threads (%s): each process imports it for itself, which "
        "takes more memory. A receiver of worker_process_init is a better place to start them.",
        ", ".join(names),
    )
    os.environ[SHAPE_VARIABLE] = json.dumps(dataclasses.asdict(shape))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- ourselves, again


def _supervise_only(given: Given, asked: Asked, shape: Shape) -> int:
    given = dataclasses.replace(given, workdir=None)  # we are there, and it may be relative
    set_up_logging(Config(), asked.level, color=given.color)
    supervisor = os.getpid()

    def make_worker_here() -> Worker:
        app = load_app(given, asked.include)
        _let_configure(app, asked)
        set_up_logging(app.conf, asked.level, color=given.color, main=supervisor)
        worker = make_worker(app, asked)
        if os.getppid() != supervisor:  # it died meanwhile; later ends are seen by the child
            os._exit(1)
        return worker

    code = supervise(shape, make_worker_here, lambda: _say_ready(shape.node))
    click.echo(f"{shape.node} stopped.")
    return code
