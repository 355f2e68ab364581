"""``umbel why``: why a task does not run."""

from __future__ import annotations

import json

import click

from umbel.cli.given import given, open_app, shared_options
from umbel.control.facts import gather
from umbel.control.why import KINDS, answer


@click.command(
    "why",
    epilog=f'With --json, "answer" is one of: {", ".join(KINDS)}.',
)
@shared_options
@click.argument("task_id", metavar="ID")
@click.option("-t", "--task", default="", help="Its name, for brokers that cannot look for it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, task_id: str, task: str, as_json: bool) -> None:
    """Say where the task ID is, and why it does not run.

    That is: there is no worker for its queue, so many are before it, it is due at a time, somebody
    holds or runs it, or how it ended.
    """
    with open_app(given(ctx)) as app:
        found = answer(gather(app, task_id, task=task))
    if as_json:
        about = {"task_id": task_id, "answer": found.kind, "text": found.text}
        click.echo(json.dumps({**about, **found.details}))
    else:
        click.echo(f"{found.text[:1].upper()}{found.text[1:]}.")
