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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Literal, NoReturn

import click

from umbel import backoff, ids, signals
from umbel.app import Umbel
from umbel.cli.banner import banner
from umbel.cli.detach import detach, take_on
from umbel.cli.find_app import imported, importing
from umbel.cli.given import Given, open_app
from umbel.cli.logs import logger, set_up_logging, task_hooks
from umbel.cli.pidfile import pidfile
from umbel.cli.printed import redirect_output
from umbel.cli.reload import is_reloaded, run_reloaded
from umbel.clock import SYSTEM_CLOCK
from umbel.config import Config
from umbel.exceptions import ConnectionLost, ImproperlyConfigured, QueueNotFound
from umbel.settings.kinds import Missing
from umbel.settings.table import TABLE
from umbel.worker.launch import Worker, WorkerOptions
from umbel.worker.pools import Shape, supervise
from umbel.worker.processes import may_fork
from umbel.worker.supervisor import RESTART

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
    autoscale: tuple[int, int] | None
    level: int
    include: tuple[str, ...]
    purge: bool
    detach: bool
    reload: bool
    beat: bool
    health: str
    health_file: str
    #: Settings that options stand for, by name; those not given are absent.
    settings: Mapping[str, Any]


def run_worker(given: Given, asked: Asked, notes: Sequence[str] = ()) -> int:
    """Run a worker to its end; return the exit code."""
    if asked.reload and not is_reloaded():
        return run_reloaded(Path(given.workdir or "."))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What tasks print shall be seen when it is printed, not when a buffer is full.
        sys.stdout.reconfigure(line_buffering=True)
    # The first process of a container is not ended by TERM unless it says how.
    signal.signal(signal.SIGTERM, _end_early)
    began_in = Path.cwd()
    shape = os.environ.pop(SHAPE_VARIABLE, None)
    if shape is not None:
        code = _supervise_only(given, asked, Shape(**json.loads(shape)))
    else:
        let_go = detach() if asked.detach else None
        for note in notes:
            click.echo(f"umbel: {note}", err=True)
        code = _run(given, asked, let_go, began_in)
    if code == RESTART:
        _start_over(began_in)
    return code


def _run(
    given: Given, asked: Asked, let_go: Callable[[Path | None], None] | None, began_in: Path
) -> int:
    app = load_app(given, asked.include, asked.settings)
    _let_configure(app, asked)
    conf = app.conf
    take_on(conf, ids.node_name(asked.node))
    set_up_logging(conf, asked.level, color=given.color)
    warn_of_settings(app)
    worker = make_worker(app, asked)
    with ExitStack() as held:
        if conf.worker_pidfile:
            held.enter_context(pidfile(Path(conf.worker_pidfile)))
        if let_go is not None:
            let_go(Path(conf.worker_logfile) if conf.worker_logfile else None)
        if not given.quiet:
            click.echo(banner(worker, asked.level), color=given.color)
        signals.worker_init.send(worker)
        _reach_broker(app, [queue.name for queue in worker.queues], purge=asked.purge)
        if worker.pool != "solo" and not may_fork():
            _supervise_anew(worker.shape)
        gc.collect()
        gc.freeze()

        def end(restarting: bool) -> None:  # noqa: FBT001 -- the one thing it is told
            signals.worker_shutdown.send(worker)
            held.close()
            if restarting:
                _start_over(began_in)
            _say(f"{worker.node} stopped.")

        code = worker.run(lambda: _announce(worker), end)
        signals.worker_shutdown.send(worker)
        if code != RESTART:
            _say(f"{worker.node} stopped.")
        return code


def _announce(worker: Worker) -> None:
    _say(f"{worker.node} ready.")
    signals.worker_ready.send(worker)
    _tell_of_the_end(worker)


def _end_early(signum: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def load_app(
    given: Given, include: Sequence[str] = (), settings: Mapping[str, Any] = MappingProxyType({})
) -> Umbel:
    """Import the application and all modules with its tasks."""
    app = open_app(given, required=True)
    app.conf.set_layer("command line", settings, source="an option")
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


def warn_of_settings(app: Umbel) -> None:
    """Log which of the settings ask for what is not done."""
    for name, value in app.conf.table().items():
        row = TABLE[name]
        if isinstance(row, Missing) and value != row.default:
            logger.warning("%s has no effect: %s", name, row.note)


def _let_configure(app: Umbel, asked: Asked) -> None:
    """Send ``celeryd_init``: its receivers may change the configuration before it is used."""
    signals.celeryd_init.send(
        ids.node_name(asked.node), instance=None, conf=app.conf, options=dataclasses.asdict(asked)
    )
    _take_workers_address(app)


def make_worker(app: Umbel, asked: Asked) -> Worker:
    """Make the worker that was asked for."""
    if asked.beat:  # what is wrong with it is said once, not by each process
        import_module("umbel.beat").source_of(app, app.conf.beat_scheduler)
    before, after = task_hooks(app.tasks)
    options = WorkerOptions(
        node=asked.node,
        queues=asked.queues,
        exclude=asked.exclude,
        concurrency=asked.concurrency or 0,
        pool=asked.pool,
        autoscale=asked.autoscale,
        health=asked.health,
        health_file=asked.health_file,
        before=before,
        after=after,
        on_start=lambda: redirect_output(app.conf),
        beside=(lambda node: _scheduler(app, node)) if asked.beat else None,
    )
    try:
        worker = Worker(app, options)
    except (ImproperlyConfigured, QueueNotFound) as error:  # -n, -Q, -X make no sense here
        raise click.UsageError(str(error)) from error
    signals.celeryd_after_setup.send(worker.node, instance=worker, conf=app.conf)
    return worker


def _scheduler(app: Umbel, node: str) -> Any:
    """Make a scheduler that runs in the node's process."""
    # Imported by those who want it: it takes memory in each process.
    made = import_module("umbel.beat").scheduler_for(app, node)
    signals.beat_embedded_init.send(made)
    return made


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


def _say(text: str) -> None:
    """Tell the operator, though what tasks print goes to the log by now."""
    click.echo(text, file=sys.__stdout__)


def _reach_broker(app: Umbel, queues: Sequence[str], *, purge: bool) -> None:
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
    if purge:
        click.echo(f"purged: {transport.purge(queues)} messages deleted")
    app.close()  # children open connections of their own


# -- when the application has threads --------------------------------------------------------------


def _supervise_anew(shape: Shape) -> NoReturn:
    names = [thread.name for thread in threading.enumerate()[1:]] or ["some of a C library"]
    logger.warning(
        "Importing the application started threads (%s): each process imports it for itself, which "
        "takes more memory. A receiver of worker_process_init is a better place to start them.",
        ", ".join(names),
    )
    os.environ[SHAPE_VARIABLE] = json.dumps(dataclasses.asdict(shape))
    _start_over(Path.cwd())


def _start_over(folder: Path) -> NoReturn:
    """Replace this program by itself, begun in this folder."""
    os.chdir(folder)
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGHUP, signal.SIGUSR1):  # until it handles them, they would end it
            signal.signal(signum, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- ourselves, again


def _supervise_only(given: Given, asked: Asked, shape: Shape) -> int:
    given = dataclasses.replace(given, workdir=None)  # we are there, and it may be relative
    conf = Config()
    conf.set_layer("command line", asked.settings, source="an option")
    take_on(conf, shape.node)
    set_up_logging(conf, asked.level, color=given.color)
    supervisor = os.getpid()

    def make_worker_here() -> Worker:
        app = load_app(given, asked.include, asked.settings)
        _let_configure(app, asked)
        take_on(app.conf, shape.node)
        set_up_logging(app.conf, asked.level, color=given.color, main=supervisor)
        worker = make_worker(app, asked)
        if os.getppid() != supervisor:  # it died meanwhile; later ends are seen by the child
            os._exit(1)
        return worker

    with ExitStack() as held:
        if conf.worker_pidfile:
            held.enter_context(pidfile(Path(conf.worker_pidfile)))
        code = supervise(shape, make_worker_here, lambda: _say(f"{shape.node} ready."))
    if code != RESTART:
        _say(f"{shape.node} stopped.")
    return code
