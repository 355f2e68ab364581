"""``umbel purge``: delete the messages that wait in queues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from umbel.app import Umbel
from umbel.cli.asking import agree
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.names import names
from umbel.control.wording import count
from umbel.servers.seams import Depth
from umbel.spelling import suggestion


@click.command("purge")
@shared_options
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", default="", callback=names, help="These queues: a,b,…")
@click.option("-X", "--exclude-queues", "exclude", default="", callback=names, help="Not these.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, force: bool, as_json: bool, **options: Any) -> None:
    """Delete what waits in the application's queues. It cannot be undone.

    What a worker holds at this moment is not deleted.
    """
    with open_app(given(ctx)) as app:
        depths = _depths(app, options["queues"], options["exclude"])
        waiting = sum(each.ready + each.delayed for each in depths.values())
        if waiting and not force:
            _ask(app, depths)
        deleted = app.servers().broker.transport.purge(list(depths))
    if as_json:
        click.echo(json.dumps({"deleted": deleted, "queues": list(depths)}))
    else:
        click.echo(f"Deleted {count(deleted, 'message')} from {', '.join(depths)}.")


def _depths(app: Umbel, chosen: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, Depth]:
    wanted = [each for each in chosen or app.router.consumed if each not in exclude]
    if not wanted:
        raise click.UsageError("no queue is left: check -Q and -X")
    transport = app.servers().broker.transport
    depths = transport.depth(wanted)
    for name in chosen:
        if name not in depths and name not in exclude:
            hint = suggestion(name, transport.queues())
            raise click.UsageError(f"there is no queue {name!r}{hint}")
    return depths or {name: Depth() for name in wanted}


def _ask(app: Umbel, depths: Mapping[str, Depth]) -> None:
    where = app.servers().broker.display_url
    click.echo(f"On {where}:", err=True)
    for name, depth in depths.items():
        click.echo(f"  {name}: {depth.ready} ready, {depth.delayed} delayed", err=True)
    agree("Delete them for ever?")
