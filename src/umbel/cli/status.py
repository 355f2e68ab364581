"""``umbel status``: which workers live."""

from __future__ import annotations

import json
from typing import Any

import click

from umbel.cli.given import given, open_app, shared_options
from umbel.cli.texts import table
from umbel.control.nodes import WorkerNode, living_nodes

#: Exit code when no worker lives, as Celery has it.
UNAVAILABLE = 69


@click.command("status")
@shared_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, as_json: bool) -> int:
    """Show the workers that live, as they told in the last seconds; exit with 69 if none does."""
    with open_app(given(ctx)) as app:
        nodes = living_nodes(app.servers().ledger_for("workers that tell of themselves"))
    if as_json:
        click.echo(json.dumps([as_data(each) for each in nodes]))
    elif nodes:
        heads = ("node", "pool", "processes", "running", "done", "queues")
        rows = [_row(each) for each in nodes]
        click.echo(table(heads, rows, numbers=heads[2:5]), color=given(ctx).color)
    else:
        click.echo("umbel: no worker lives", err=True)
    return 0 if nodes else UNAVAILABLE


def running(node: WorkerNode) -> int:
    """Return how many tasks a node runs."""
    return sum(process.count for process in node.processes)


def _row(node: WorkerNode) -> tuple[str, ...]:
    return (
        node.name,
        node.pool,
        str(len(node.processes)),
        str(running(node)),
        str(node.processed),
        ", ".join(node.queues),
    )


def as_data(node: WorkerNode) -> dict[str, Any]:
    """Return a node as JSON has it."""
    return {
        "node": node.name,
        "pid": node.pid,
        "pool": node.pool,
        "concurrency": node.concurrency,
        "queues": list(node.queues),
        "tasks": sorted(node.tasks),
        "processed": node.processed,
        "processes": [
            {
                "pid": process.pid,
                "processed": process.processed,
                "count": process.count,
                "running": [
                    {"id": task.id, "task": task.name, "since": task.since}
                    for task in process.running
                ],
            }
            for process in node.processes
        ],
    }
