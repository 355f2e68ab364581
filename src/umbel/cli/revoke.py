"""``umbel revoke``: call tasks off."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from umbel import ids
from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.moments import span
from umbel.control.revoking import REMEMBERED, revoke, signal_name
from umbel.control.wording import count
from umbel.result.record import parts_of


def _signal(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return signal_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("revoke")
@shared_options
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("-t", "--terminate", is_flag=True, help="End them where they run, too.")
@click.option(
    "-s",
    "--signal",
    default="TERM",
    show_default=True,
    callback=_signal,
    help="How a process is ended that runs one.",
)
@click.option(
    "--expires",
    callback=span,
    help="How long it is remembered: 7d, 12h, or seconds; otherwise 30 days.",
)
@click.option(
    "--root",
    "whole",
    is_flag=True,
    help="They are first tasks of workflows: call off these, and all they send, sent or not.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context, /, *, task_ids: Sequence[str], as_json: bool, **options: Any
) -> None:
    """Call tasks off: no worker will run them, whenever it starts. "-" reads ids from the input.

    With --terminate those that run are ended within about a second, on whatever machine: coroutines
    are cancelled, for others their process ends and another takes its place. A task in a thread
    (-P threads, -P solo) cannot be ended and runs on.
    """
    expires: float | None = options["expires"]
    with open_app(given(ctx)) as app:
        named = list(_all(task_ids))
        number = revoke(
            app.servers(),
            _parts(app, named) if options["whole"] else named,
            roots=named if options["whole"] else (),
            terminate=options["terminate"],
            signal=options["signal"],
            expires_in=REMEMBERED if expires is None else expires,
            by=ids.node_name(f"{_user()}@%h"),
        )
    click.echo(json.dumps({"revoked": number}) if as_json else f"Revoked {count(number, 'task')}.")


def _all(task_ids: Sequence[str]) -> Iterator[str]:
    for each in task_ids:
        if each == "-":
            yield from sys.stdin.read().split()
        else:
            yield each


def _parts(app: Umbel, roots: Iterable[str]) -> list[str]:
    """Return the ids of all tasks that results tell of."""
    return [part.id for each in roots for part in parts_of(app.AsyncResult(each))]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "somebody"
