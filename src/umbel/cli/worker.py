"""``umbel worker``: its options. What they lead to is in ``running``."""

from __future__ import annotations

from typing import Any

import click

from umbel.cli.given import given, shared_options
from umbel.cli.logs import level_named
from umbel.cli.names import names
from umbel.cli.running import Asked, run_worker

_POOLS = ("prefork", "threads", "solo")


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


def _autoscale(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    if value is None:
        return None
    most, _, least = value.partition(",")
    try:
        bounds = int(most), int(least or 1)
    except ValueError:
        bounds = 0, 0
    if not 1 <= bounds[1] <= bounds[0]:
        raise click.BadParameter(f"expected MAX,MIN such as 10,3, got {value!r}")
    return bounds


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
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(min=0),
    metavar="N",
    help="Replace a process by a fresh one after so many tasks; 0 = never.",
)
@click.option(
    "--max-memory-per-child",
    type=click.IntRange(min=0),
    metavar="KIB",
    help="Replace a process that uses more memory; 0 = never.",
)
@click.option(
    "--autoscale",
    callback=_autoscale,
    metavar="MAX,MIN",
    help="As many processes as there is work for, within these bounds.",
)
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> int:
    """Run the tasks of an application until TERM or Ctrl-C.

    TERM and Ctrl-C finish what runs; a second one, or QUIT, gives it back at once. Nothing is lost
    either way.
    """
    return run_worker(given(ctx), Asked(**options))
