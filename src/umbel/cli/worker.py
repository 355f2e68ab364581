"""``umbel worker``: its options. What they lead to is in ``running``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from umbel.cli.given import given, shared_options
from umbel.cli.logs import level_named
from umbel.cli.names import names
from umbel.cli.numbers import Number, Whole
from umbel.cli.running import Asked, run_worker
from umbel.cli.unneeded import explanations, unneeded_options
from umbel.exceptions import ImproperlyConfigured
from umbel.settings.sources import setting_named
from umbel.settings.table import TABLE

F = TypeVar("F", bound=Callable[..., Any])

#: Where the settings that options stand for are kept while a command line is read.
_SETTINGS = "umbel.cli.worker.settings"
_POOLS = ("prefork", "threads", "solo")


def _level(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return level_named(value)
    except ValueError:
        expected = "DEBUG, INFO, WARNING, ERROR, CRITICAL or a number"
        raise click.BadParameter(f"expected {expected}, got {value!r}") from None


def _node(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.partition("@")[0]:
        raise click.BadParameter(f"expected a name such as shop@%h, got {value!r}")
    return value


def _settings(ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> None:
    """Keep what is given as ``setting=value``; Celery writes ``section.setting=value``."""
    for each in values:
        name, equals, text = each.partition("=")
        if not equals:
            raise click.UsageError(f"expected SETTING=VALUE at the end, got {each!r}", ctx)
        name = f"worker{name}" if name.startswith(".") else name
        try:
            row = TABLE[setting_named(name.replace(".", "_"))]
            value = row.parse_text(text, "the command line")
        except ImproperlyConfigured as error:
            raise click.UsageError(str(error), ctx) from error
        ctx.meta.setdefault(_SETTINGS, {}).setdefault(row.name, value)


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


def _setting(*names: str, setting: str = "", **options: Any) -> Callable[[F], F]:
    """Return an option that stands for a setting, ``worker_<its name>`` unless said otherwise."""
    name = setting or "worker_" + names[-1].removeprefix("--").replace("-", "_")

    def keep(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.meta.setdefault(_SETTINGS, {})[name] = value

    return click.option(*names, expose_value=False, callback=keep, default=None, **options)


def level_option(default: str, more: str = "") -> Callable[[F], F]:
    """Return the option that says what is logged."""
    return click.option(
        "-l",
        "--loglevel",
        "level",
        default=default,
        show_default=True,
        callback=_level,
        help=f"What is logged; {more}" if more else "What is logged.",
    )


@click.command("worker")
@shared_options
@click.option(
    "-n",
    "--hostname",
    "node",
    default="umbel@%h",
    callback=_node,
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
    type=Whole(min=1),
    help="Processes or threads that run tasks; otherwise as many as there are CPUs.",
)
@click.option("-P", "--pool", callback=_pool, metavar="|".join(_POOLS), help="How tasks run.")
@level_option("WARNING", "INFO shows every task.")
@click.option("-I", "--include", default="", callback=names, help="Import these modules too: a,b,…")
@click.option(
    "--autoscale",
    callback=_autoscale,
    metavar="MAX,MIN",
    help="As many processes as there is work for, within these bounds.",
)
@_setting(
    "--max-tasks-per-child",
    type=Whole(min=0),
    metavar="N",
    help="Replace a process by a fresh one after so many tasks; 0 = never.",
)
@_setting(
    "--max-memory-per-child",
    type=Whole(min=0),
    metavar="KIB",
    help="Replace a process that uses more memory; 0 = never.",
)
@_setting(
    "--disable-prefetch",
    flag_value=True,
    type=bool,
    help="Hold nothing beyond what runs.",
)
@_setting(
    "--time-limit",
    setting="task_time_limit",
    type=Number(min=0),
    metavar="SECONDS",
    help="End the process of a task that runs longer.",
)
@_setting(
    "--soft-time-limit",
    setting="task_soft_time_limit",
    type=Number(min=0),
    metavar="SECONDS",
    help="Raise SoftTimeLimitExceeded in a task that runs longer.",
)
@click.option("--purge", "--discard", is_flag=True, help="Delete what waits in its queues first.")
@click.option("-D", "--detach", is_flag=True, help="Go on in the background.")
@_setting("--pidfile", metavar="PATH", help="Write the process's number there; %n, %h, … as in -n.")
@_setting("-f", "--logfile", metavar="PATH", help="Log into this file; %n, %h, … as in -n.")
@_setting(
    "--log-json",
    setting="worker_log_format",
    flag_value="json",
    help="Log lines are JSON objects.",
)
@_setting("--uid", metavar="USER", help="Become this user.")
@_setting("--gid", metavar="GROUP", help="Become this group.")
@_setting("--umask", metavar="OCTAL", help="File mode mask.")
@click.option(
    "--health",
    default="",
    metavar="PORT|PATH",
    help="Answer /livez and /readyz at this port, host:port or Unix socket.",
)
@click.option("--health-file", default="", metavar="PATH", help="Keep this file fresh while alive.")
@click.option("--reload", is_flag=True, help="Start anew when a file changes; for development.")
@click.option(
    "-B", "--beat", is_flag=True, help="Send periodic tasks as well; of many who do, one leads."
)
@_setting(
    "--scheduler",
    setting="beat_scheduler",
    metavar="MODULE:NAME",
    help="With --beat: a source of further entries.",
)
@unneeded_options
@click.argument(
    "settings", nargs=-1, metavar="[-- SETTING=VALUE...]", expose_value=False, callback=_settings
)
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> int:
    """Run the tasks of an application until TERM or Ctrl-C.

    TERM and Ctrl-C finish what runs; a second one, or QUIT, gives it back at once. Nothing is lost
    either way. HUP starts the worker anew.
    """
    asked = Asked(**options, settings=ctx.meta.get(_SETTINGS, {}))
    return run_worker(given(ctx), asked, explanations(ctx))
