"""``umbel dev``: all that an application needs while one works on it."""

from __future__ import annotations

from collections.abc import Sequence

import click

from umbel.cli.given import shared_options
from umbel.cli.worker import command as worker

#: What a worker is told unless the user says otherwise.
DEFAULTS = ("--beat", "--reload", "--loglevel", "INFO")


@click.command(
    "dev",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@shared_options
@click.pass_context
def command(ctx: click.Context, /, *, options: Sequence[str]) -> int:
    """Run a worker and a scheduler, and start them anew when a file of the project changes.

    It takes the options of `umbel worker`. Unless the application names a broker, messages wait in
    a file of the project: nothing else has to be running.
    """
    with worker.make_context("dev", [*DEFAULTS, *options], parent=ctx) as inner:
        code: int = worker.invoke(inner)
    return code
