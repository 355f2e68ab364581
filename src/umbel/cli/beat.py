"""``umbel beat``: a scheduler in a process of its own."""

from __future__ import annotations

import math
import signal
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from umbel import ids, signals
from umbel.app import Umbel
from umbel.beat import Scheduler, scheduler_for
from umbel.cli.detach import detach, take_on
from umbel.cli.given import given, shared_options
from umbel.cli.logs import set_up_logging
from umbel.cli.pidfile import pidfile
from umbel.cli.running import load_app, warn_of_settings
from umbel.cli.worker import level_option
from umbel.wire.control import Command
from umbel.worker.orders import Obeying, pong

#: Settings that options stand for, where they are not named after them.
_SETTINGS = {"max_interval": "beat_max_loop_interval"}
#: Seconds without a turn after which a scheduler does not answer.
SILENCE = 60.0


@click.command("beat")
@shared_options
@click.option(
    "-n",
    "--hostname",
    "node",
    default="beat@%h",
    show_default=True,
    help="Its name; %h = host with domain, %n = host, %d = domain.",
)
@level_option("INFO")
@click.option("-S", "--scheduler", metavar="MODULE:NAME", help="A source of further entries.")
@click.option(
    "--max-interval",
    type=click.FloatRange(min=0.01),
    metavar="SECONDS",
    help="Most seconds until a change of the schedule is noticed.",
)
@click.option("-D", "--detach", "detached", is_flag=True, help="Go on in the background.")
@click.option("--pidfile", metavar="PATH", help="Write the process's number there; %n, … as in -n.")
@click.option("-f", "--logfile", metavar="PATH", help="Log into this file; %n, %h, … as in -n.")
@click.option("--uid", metavar="USER", help="Become this user.")
@click.option("--gid", metavar="GROUP", help="Become this group.")
@click.option("--umask", metavar="OCTAL", help="File mode mask.")
@click.option("-s", "--schedule", "schedule_file", hidden=True, help="Not needed.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    node: str,
    level: int,
    detached: bool,
    schedule_file: str | None,
    **settings: Any,
) -> int:
    """Send periodic tasks when they are due, until TERM or Ctrl-C.

    Start it on as many machines as you like: one leads, the others stand by and take over within
    seconds. `umbel worker --beat` does the same inside a worker.
    """
    let_go = detach() if detached else None
    app, name = load_app(given(ctx), (), _chosen(settings)), ids.node_name(node)
    take_on(app.conf, name, of="beat")
    set_up_logging(app.conf, level, color=given(ctx).color, of="beat")
    warn_of_settings(app)
    if schedule_file is not None:
        click.echo("umbel: -s has no effect: past runs are kept on the broker's server", err=True)
    made = scheduler_for(app, name)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: made.stop())
    with ExitStack() as held:
        if app.conf.beat_pidfile:
            held.enter_context(pidfile(Path(app.conf.beat_pidfile)))
        if let_go is not None:
            let_go(Path(app.conf.beat_logfile) if app.conf.beat_logfile else None)
        signals.beat_init.send(made)
        made.turn()
        if app.conf.beat_enable_remote_control:
            held.enter_context(_answering(app, name, made))
        click.echo(f"{name} ready.")
        made.run()
    app.close()
    click.echo(f"{name} stopped.")
    return 0


def _chosen(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that options stand for."""
    return {
        _SETTINGS.get(name, f"beat_{name}"): value
        for name, value in options.items()
        if value is not None
    }


@contextmanager
def _answering(app: Umbel, name: str, made: Scheduler) -> Generator[None]:
    """Answer ping for the length of a block, while the scheduler goes on."""
    most, servers = app.conf.beat_remote_control_max_tick_age, app.servers()
    bus = servers.broker.bus
    if bus is None:
        yield
        return
    longest = SILENCE if most is None else most or math.inf

    def ping(command: Command) -> Any:
        return pong(command) if made.silence < longest else None

    obeying = Obeying(name, bus, {"ping": ping}, exchange=servers.control_exchange)
    obeying.start()
    try:
        yield
    finally:
        obeying.stop()
