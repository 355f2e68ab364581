"""``umbel bindings``: which exchange leads to which queues."""

from __future__ import annotations

import json

import click

from umbel.cli.given import given, open_app, shared_options
from umbel.cli.texts import table
from umbel.control.queues import look_at_bindings

_HEADS = ("exchange", "routing key", "queue")


@click.command("bindings")
@shared_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, as_json: bool) -> None:
    """Show bindings: an exchange passes a message on to queues whose keys match its routing key.

    Every queue can also be reached by its name through the empty exchange. RabbitMQ tells its
    bindings where broker_transport_options has a management_url; else this application's are shown.
    """
    with open_app(given(ctx)) as app:
        found = look_at_bindings(app.servers().broker.transport, app.router.queues.values())
    if as_json:
        click.echo(json.dumps([dict(zip(_HEADS, row, strict=True)) for row in found]))
    elif found:
        click.echo(table(_HEADS, found), color=given(ctx).color)
    else:
        click.echo("umbel: there are no bindings yet", err=True)
