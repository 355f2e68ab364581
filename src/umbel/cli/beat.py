"""``umbel beat``: a scheduler in a process of its own."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from umbel import ids, signals
from umbel.beat import scheduler_for
from umbel.cli.given import given, shared_options
from umbel.cli.logs import set_up_logging
from umbel.cli.pidfile import pidfile
from umbel.cli.running import load_app, warn_of_settings
from umbel.cli.worker import level_option


@click.command("beat", short_help="Send periodic tasks when they are due.")
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
@click.option("--pidfile", "pid_file", metavar="FILE", help="Keep the process's number here.")
@click.option("-s", "--schedule", "schedule_file", hidden=True, help="Not needed.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    node: str,
    level: int,
    scheduler: str | None,
    max_interval: float | None,
    pid_file: str | None,
    schedule_file: str | None,
) -> int:
    """Send periodic tasks when they are due, until TERM or Ctrl-C.

    Start it on as many machines as you like: one leads, the others stand by and take over within
    seconds. `umbel worker --beat` does the same inside a worker.
    """
    chosen = {"beat_scheduler": scheduler, "beat_max_loop_interval": max_interval}
    app = load_app(given(ctx), (), {name: value for name, value in chosen.items() if value})
    set_up_logging(app.conf, level, color=given(ctx).color)
    warn_of_settings(app)
    if schedule_file is not None:
        click.echo("umbel: -s has no effect: past runs are kept on the broker's server", err=True)
    name = ids.node_name(node)
    made = scheduler_for(app, name)

    def stop(_signum: int, _frame: FrameType | None) -> None:
        made.stop()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    with ExitStack() as held:
        path = pid_file or app.conf.beat_pidfile
        if path:
            held.enter_context(pidfile(Path(path)))
        signals.beat_init.send(made)
        made.turn()
        click.echo(f"{name} ready.")
        made.run()
    app.close()
    click.echo(f"{name} stopped.")
    return 0
