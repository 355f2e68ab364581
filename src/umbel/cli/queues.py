"""``umbel queues``: what waits, and who consumes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import click

from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.names import names
from umbel.cli.texts import table
from umbel.clock import SYSTEM_CLOCK
from umbel.control.nodes import living_nodes
from umbel.control.queues import QueueSight, look_at_queues
from umbel.control.wording import duration
from umbel.spelling import suggestion


@click.command("queues")
@shared_options
@click.option("-Q", "--queues", "chosen", default="", callback=names, help="These queues: a,b,…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, chosen: tuple[str, ...], as_json: bool) -> None:
    """Show of each queue how many messages are ready, delayed and held by workers.

    "oldest" is how long ago the oldest ready message was sent; "?" is what this broker does not
    tell, and "~" an estimate of its own.
    """
    with open_app(given(ctx)) as app:
        sights = see_queues(app, chosen)
        transport = app.servers().broker.transport
        for name in chosen:
            if name not in {each.name for each in sights}:
                hint = suggestion(name, transport.queues())
                raise click.UsageError(f"there is no queue {name!r}{hint}")
    if as_json:
        click.echo(json.dumps([as_data(each) for each in sights]))
    elif sights:
        rows = [row(each) for each in sights]
        click.echo(table(HEADS, rows, numbers=HEADS[1:]), color=given(ctx).color)
    else:
        click.echo("umbel: there are no queues yet", err=True)


def see_queues(app: Umbel, chosen: Sequence[str] = ()) -> list[QueueSight]:
    """Look at these queues; otherwise at the application's and all others that the server lists."""
    servers = app.servers()
    transport = servers.broker.transport
    wanted = chosen or list(dict.fromkeys((*app.router.consumed, *transport.queues())))
    nodes = None if servers.ledger is None else living_nodes(servers.ledger)
    return look_at_queues(transport, wanted, nodes)


HEADS = ("queue", "ready", "delayed", "held", "oldest", "consumers")


def row(sight: QueueSight) -> tuple[str, ...]:
    """Return a queue's line under HEADS."""
    depth = sight.depth
    oldest = "-" if not depth.ready else "?"
    if depth.oldest_at is not None:
        oldest = duration(SYSTEM_CLOCK.now() - depth.oldest_at)
    # Who only estimates tells nothing of what is delayed.
    about, delayed = ("~", "?") if depth.estimate else ("", str(depth.delayed))
    consumers = "?" if sight.consumers is None else str(sight.consumers)
    return (
        sight.name,
        f"{about}{depth.ready}",
        delayed,
        f"{about}{depth.held}" if depth.tells_held else "?",
        oldest,
        consumers,
    )


def as_data(sight: QueueSight) -> dict[str, Any]:
    """Return a queue as JSON has it; null = not known."""
    data = {"queue": sight.name, **dataclasses.asdict(sight.depth)}
    if sight.depth.estimate:
        data.update(delayed=None)
    if not data.pop("tells_held"):
        data.update(held=None)
    return {**data, "consumers": sight.consumers, "nodes": list(sight.nodes)}
