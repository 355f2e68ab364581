"""``umbel result``: show what became of a task."""

from __future__ import annotations

import json
import pprint
from typing import Any

import click

from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.numbers import Number
from umbel.exceptions import TimeoutError as ResultTimeout
from umbel.result import AsyncResult
from umbel.spelling import suggestion


@click.command("result")
@shared_options
@click.argument("task_id", metavar="ID")
@click.option("--traceback", "with_traceback", is_flag=True, help="Show the task's traceback.")
@click.option("-t", "--task", "name", help="The task's name, if it has a result store of its own.")
@click.option("-w", "--wait", is_flag=True, help="Wait until the task is ready.")
@click.option("--timeout", type=Number(min=0), help="Wait at most this many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, task_id: str, as_json: bool, **options: Any) -> int:
    """Print what the task ID returned; exit with 1 if it failed or is not ready."""
    with open_app(given(ctx)) as app:
        result = _result(app, task_id, options["name"])
        if options["wait"] or options["timeout"] is not None:
            _wait(result, options["timeout"])
        if as_json:
            click.echo(json.dumps(_as_data(result), default=repr))
        else:
            _show(result, with_traceback=options["with_traceback"])
        return 0 if result.successful() else 1


def _result(app: Umbel, task_id: str, name: str | None) -> AsyncResult[Any]:
    if name is None:
        return app.AsyncResult(task_id)
    if name not in app.tasks:
        raise click.UsageError(f"no task named {name!r}{suggestion(name, app.tasks)}")
    result: AsyncResult[Any] = app.tasks[name].AsyncResult(task_id)
    return result


def _wait(result: AsyncResult[Any], timeout: float | None) -> None:
    try:
        result.get(timeout, propagate=False)
    except ResultTimeout:
        return  # it is shown as it is


def _as_data(result: AsyncResult[Any]) -> dict[str, Any]:
    value = result.result
    done_at = result.date_done
    return {
        "task_id": result.id,
        "state": result.state,
        "result": repr(value) if isinstance(value, BaseException) else value,
        "traceback": result.traceback,
        "date_done": done_at.isoformat() if done_at else None,
    }


def _show(result: AsyncResult[Any], *, with_traceback: bool) -> None:
    value = result.result
    if result.successful():
        click.echo(value if isinstance(value, str) else pprint.pformat(value))
    elif with_traceback and result.traceback:
        click.echo(result.traceback)
    elif result.ready():
        click.echo(f"umbel: {result.state}: {value!r}", err=True)
    else:
        detail = f": {value!r}" if value is not None else ""
        click.echo(
            f"umbel: {result.id} is not ready, its state is {result.state}{detail}", err=True
        )
