"""``umbel worker``: from the command line to a running worker.

The application is imported here, before the first fork, so that the children share its memory.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click

from umbel import backoff, signals
from umbel.app import Umbel
from umbel.cli.banner import banner
from umbel.cli.find_app import imported
from umbel.cli.given import Given, given, open_app, shared_options
from umbel.cli.logs import level_named, logger, set_up_logging, task_hooks
from umbel.cli.names import names
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost
from umbel.worker.launch import Worker, WorkerOptions

#: Most seconds between two attempts to reach the broker at the start.
LONGEST_PAUSE = 30.0

_POOLS = ("prefork", "threads", "solo")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of ``umbel worker``."""

    node: str
    queues: tuple[str, ...]
    exclude: tuple[str, ...]
    concurrency: int
    pool: Literal["prefork", "threads", "solo"] | None
    level: int
    include: tuple[str, ...]


def _level(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return level_named(value)
    except ValueError:
        expected = "DEBUG, INFO, WARNING, ERROR, CRITICAL or a number"
        raise click.BadParameter(f"expected {expected}, got {value!r}") from None


def _pool(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or value in _POOLS:
        return value
    if value in ("gevent", "eventlet"):
        raise click.BadParameter(
            f"there is no pool {value!r}: async def tasks run side by side in every pool, "
            "blocking ones in -P threads"
        )
    raise click.BadParameter(f"expected {', '.join(_POOLS)}, got {value!r}")


@click.command("worker", short_help="Run the tasks of an application.")
@shared_options
@click.option(
    "-n",
    "--hostname",
    "node",
    default="umbel@%h",
    show_default=True,
    help="The node's name; %h = host with domain, %n = host, %d = domain.",
)
@click.option("-Q", "--queues", default="", callback=names, help="Consume these: a,b,…")
@click.option(
    "-X",
    "--exclude-queues",
    "exclude",
    default="",
    callback=names,
    help="Do not consume these: a,b,…",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    default=None,
    help="Processes or threads that run tasks; otherwise as many as there are CPUs.",
)
@click.option("-P", "--pool", callback=_pool, metavar="|".join(_POOLS), help="How tasks run.")
@click.option(
    "-l",
    "--loglevel",
    "level",
    default="WARNING",
    show_default=True,
    callback=_level,
    help="What is logged; INFO shows every task.",
)
@click.option("-I", "--include", default="", callback=names, help="Import these modules too: a,b,…")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> int:
    """Run the tasks of an application until TERM or Ctrl-C.

    TERM and Ctrl-C finish what runs; a second one, or QUIT, gives it back at once. Nothing is lost
    either way.
    """
    options["concurrency"] = options["concurrency"] or 0
    return run_worker(given(ctx), Asked(**options))


def run_worker(given: Given, asked: Asked) -> int:
    """Run a worker to its end; return the exit code."""
    app = load_app(given, asked.include)
    set_up_logging(app.conf, asked.level, color=given.color)
    worker = make_worker(app, asked)
    # What tasks print shall be seen when it is printed, not when a buffer is full.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if not given.quiet:
        click.echo(banner(worker, asked.level), color=given.color)
    signals.worker_init.send(worker)
    reach_broker(app, [queue.name for queue in worker.queues])
    gc.collect()
    gc.freeze()
    return worker.run(lambda: _announce(worker))


def load_app(given: Given, include: Sequence[str] = ()) -> Umbel:
    """Import the application and all modules with its tasks."""
    app = open_app(given, required=True)
    for name in include:
        if imported(name) is None:
            raise click.UsageError(f"-I {name}: there is no such module")
    app.import_default_modules()
    return app


def make_worker(app: Umbel, asked: Asked) -> Worker:
    """Make the worker that was asked for."""
    before, after = task_hooks(app.tasks)
    options = WorkerOptions(
        node=asked.node,
        queues=asked.queues,
        exclude=asked.exclude,
        concurrency=asked.concurrency,
        pool=asked.pool,
        before=before,
        after=after,
    )
    return Worker(app, options)


def reach_broker(app: Umbel, queues: Sequence[str]) -> None:
    """Return when the broker answers; raises TransportError if it is not worth waiting for it."""
    broker = app.servers().broker
    attempt = 0
    while True:
        try:
            broker.transport.depth(queues)
            break
        except ConnectionLost as error:
            if not app.conf.broker_connection_retry_on_startup:
                raise
            attempt += 1
            pause = backoff.exponential(attempt, 0.5, maximum=LONGEST_PAUSE, jitter=False)
            logger.error(
                "Cannot reach %s, trying again in %gs: %s", broker.display_url, pause, error
            )
            SYSTEM_CLOCK.sleep(pause)
    # Children open connections of their own.
    app.close()


def _announce(worker: Worker) -> None:
    click.echo(f"{worker.node} ready.")
    signals.worker_ready.send(worker)
