"""``umbel call``: send a task by its name."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import click

from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.numbers import Number
from umbel.spelling import suggestion


def _json(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    expected = list if parameter.name == "args" else dict
    try:
        found = json.loads(value) if value is not None else expected()
    except ValueError as error:
        raise click.BadParameter(f"expected JSON, got {value!r}: {error}") from error
    if not isinstance(found, expected):
        example = "'[1, 2]'" if expected is list else "'{\"x\": 1}'"
        raise click.BadParameter(f"expected something like {example}, got {value!r}")
    return found


def _moment(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    try:
        return dt.datetime.fromisoformat(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(f"expected a time like 2030-01-31T12:00, got {value!r}") from error


def _seconds_or_moment(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | dt.datetime | None:
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        moment: dt.datetime = _moment(ctx, parameter, value)
        return moment


@click.command("call")
@shared_options
@click.argument("name")
@click.option("-a", "--args", callback=_json, help="Arguments, as a JSON list.")
@click.option("-k", "--kwargs", callback=_json, help="Arguments by name, as a JSON object.")
@click.option("--eta", callback=_moment, help="When it shall run, as ISO 8601.")
@click.option("--countdown", type=Number(), help="In how many seconds it shall run.")
@click.option(
    "--expires", callback=_seconds_or_moment, help="When it shall run no more: seconds or ISO 8601."
)
@click.option("--serializer", help="How the arguments are written.")
@click.option("--task-id", metavar="ID", help="The id it has; a new one otherwise.")
@click.option("--queue", help="The queue it goes to.")
@click.option("--exchange", help="The exchange it goes to.")
@click.option("--routing-key", help="The routing key it has.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, name: str, as_json: bool, **options: Any) -> None:
    """Send the task NAME and print its id.

    The task need not be known here; without -A it goes to the broker of this folder's project.
    """
    args, kwargs = options.pop("args"), options.pop("kwargs")
    app = open_app(given(ctx))
    with app:
        _warn_if_unknown(app, name)
        options = {each: value for each, value in options.items() if value is not None}
        try:
            sent = app.send_task(name, args, kwargs, **options)
        except TypeError as error:  # wrong arguments, told by the task's signature
            raise click.UsageError(str(error)) from error
    click.echo(json.dumps({"task_id": sent.id, "task": name}) if as_json else sent.id)


def _warn_if_unknown(app: Umbel, name: str) -> None:
    known = app.tasks
    if known.own() and name not in known:
        hint = suggestion(name, known)
        click.echo(f"umbel: note: the application has no task {name!r}{hint}", err=True)
