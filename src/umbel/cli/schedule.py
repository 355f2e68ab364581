"""``umbel schedule``: looking at periodic tasks, and changing them while schedulers run."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from umbel.app import Umbel
from umbel.cli.given import given, open_app, output_options, shared_options
from umbel.cli.texts import table
from umbel.schedules import from_text
from umbel.scheduling.changes import Shown
from umbel.scheduling.entry import MISSED, OVERLAP

#: What a call of an entry's task is given, as JSON of these kinds.
_CALL: dict[str, type[Any]] = {"args": list, "kwargs": dict, "options": dict}
#: Options that belong to the schedule itself.
_LIMITS = ("tz", "start", "end", "jitter")


@click.group("schedule")
@shared_options
def command() -> None:
    """Show what is sent when, and change it; schedulers notice within a second."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@output_options
@click.pass_context
def list_entries(ctx: click.Context, /, *, as_json: bool) -> None:
    """Show all entries: last run, its outcome, next run; and who leads."""
    with _app(ctx) as app:
        entries = app.schedule.list()
        leader, problems = app.schedule.leader(), app.schedule.entries().problems
        rows = [_facts(app, each) for each in entries]
    for problem in problems:
        click.echo(f"umbel: {problem}", err=True)
    if as_json:
        click.echo(json.dumps({"leader": leader, "entries": rows}))
        return
    if rows:
        heads = ("name", "task", "schedule", "from", "last run", "outcome", "next run", "missed")
        cells = [tuple(str(row[head] or "") for head in heads) for row in rows]
        click.echo(table(heads, cells, numbers=("missed",)), color=given(ctx).color)
    click.echo(f"leads: {leader}" if leader else "nobody leads: nothing is sent", err=True)


@command.command("add")
@click.argument("name")
@click.argument("task")
@click.argument("when", metavar="SCHEDULE")
@click.option("-a", "--args", "args", default="[]", metavar="JSON", help="Arguments, as a list.")
@click.option("-k", "--kwargs", default="{}", metavar="JSON", help="Arguments by name.")
@click.option("--options", default="{}", metavar="JSON", help="Options of apply_async.")
@click.option("--timezone", "tz", metavar="ZONE", help="Zone of its times, as Europe/Paris.")
@click.option("--start", metavar="TIME", help="Nothing is due before.")
@click.option("--end", metavar="TIME", help="Nothing is due after.")
@click.option("--jitter", type=float, metavar="SECONDS", help="Each run waits a part of it.")
@click.option("--missed", type=click.Choice(MISSED), help="What is done about missed runs.")
@click.option("--limit", type=int, metavar="N", help="Runs that --missed all makes up for.")
@click.option("--overlap", type=click.Choice(OVERLAP), help="While the last run waits or runs.")
@click.option("--deadline", type=float, metavar="SECONDS", help="Not sent when it is later.")
@click.option("--paused", is_flag=True, default=None, help="Do not send it yet.")
@output_options
@click.pass_context
def add(ctx: click.Context, /, *, name: str, task: str, when: str, **rest: Any) -> None:
    """Add an entry, such as

    \b
        umbel schedule add clean shop.clean "every 30 min"
        umbel schedule add report shop.report "0 7 * * mon-fri" --timezone Europe/Paris
        umbel schedule add launch shop.launch "once 2030-01-31T12:00"
    """  # noqa: D301, D400 -- \b is click's: the lines are shown as they are
    limits = {each: value for each in _LIMITS if (value := rest.pop(each))}
    texts = {each: rest.pop(each) for each in _CALL}
    rules = {each: value for each, value in rest.items() if value is not None}
    with _app(ctx) as app:
        call = {each: _json(f"--{each}", text, _CALL[each]) for each, text in texts.items()}
        entry = app.schedule.add(name, task, from_text(when, **limits), **call, **rules)
        runs = app.schedule.outlook(name, count=1)
        zone = entry.schedule.zone_in(app.schedule.zone)
    click.echo(f"{name} is added; it is sent first at {_shown(runs[0].sent_at, zone)}")


@command.command("pause")
@click.argument("names", nargs=-1, required=True)
@output_options
@click.pass_context
def pause(ctx: click.Context, /, *, names: Sequence[str]) -> None:
    """Send entries no more until they are resumed."""
    _each(ctx, names, lambda app, name: app.schedule.pause(name), "is paused")


@command.command("resume")
@click.argument("names", nargs=-1, required=True)
@output_options
@click.pass_context
def resume(ctx: click.Context, /, *, names: Sequence[str]) -> None:
    """Send entries again that were paused."""
    _each(ctx, names, lambda app, name: app.schedule.resume(name), "is sent again")


@command.command("remove")
@click.argument("names", nargs=-1, required=True)
@output_options
@click.pass_context
def remove(ctx: click.Context, /, *, names: Sequence[str]) -> None:
    """Delete entries that were added."""
    _each(ctx, names, lambda app, name: app.schedule.remove(name), "is removed")


@command.command("run")
@click.argument("name")
@output_options
@click.pass_context
def run(ctx: click.Context, /, *, name: str) -> None:
    """Send an entry once, now; print the task's id."""
    with _app(ctx) as app:
        click.echo(app.schedule.run_now(name).id)


@command.command("explain")
@click.argument("name")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=10, show_default=True)
@output_options
@click.pass_context
def explain(ctx: click.Context, /, *, name: str, count: int) -> None:
    """Show the next runs of an entry in local and UTC time, and why one is irregular."""
    with _app(ctx) as app:
        shown = {each.entry.name: each for each in app.schedule.list()}.get(name)
        runs = app.schedule.outlook(name, count=count)
        app_zone = app.schedule.zone
    assert shown is not None
    entry = shown.entry
    zone = entry.schedule.zone_in(app_zone)
    click.echo(f"{name}: {entry.task}, {entry.schedule}; times of {zone}")
    click.echo(f"missed={entry.missed}, overlap={entry.overlap}, {_from(shown)}")
    if entry.paused:
        click.echo("It is paused: nothing of this is sent until it is resumed.")
    rows = [
        (_shown(each.sent_at, zone), _shown(each.sent_at, dt.UTC), each.remark) for each in runs
    ]
    if rows:
        click.echo(table(("local", "UTC", "why"), rows), color=given(ctx).color)
    if len(rows) < count:
        click.echo("There are no more.")


def _app(ctx: click.Context) -> Umbel:
    app = open_app(given(ctx), required=True)  # its name is that of its schedule
    app.import_default_modules()
    return app


def _each(
    ctx: click.Context, names: Sequence[str], change: Callable[[Umbel, str], Any], done: str
) -> None:
    with _app(ctx) as app:
        for name in names:
            change(app, name)
            click.echo(f"{name} {done}")


def _json(option: str, text: str, kind: type[Any]) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: expected JSON, got {text!r:.80}: {error}") from error
    if not isinstance(found, kind):
        raise click.UsageError(f"{option}: expected a JSON {kind.__name__}, got {text!r:.80}")
    return found


def _facts(app: Umbel, shown: Shown) -> dict[str, Any]:
    """Return what the list shows of an entry."""
    entry, state = shown.entry, shown.state
    zone = entry.schedule.zone_in(app.schedule.zone)
    next_run = "" if shown.next_at is None else _shown(shown.next_at, zone)
    return {
        "name": entry.name,
        "task": entry.task,
        "schedule": str(entry.schedule),
        "from": shown.origin,
        "last run": _shown(state.sent_at, zone) if state and state.sent_at else "",
        "outcome": _outcome(shown),
        "next run": "paused" if entry.paused else next_run or "none",
        "missed": state.missed if state else 0,
        "runs": state.runs if state else 0,
        "task id": state.task_id if state else "",
        "paused": entry.paused,
    }


def _outcome(shown: Shown) -> str:
    state = shown.state
    if state is None:
        return ""
    return state.note or shown.outcome or ("unknown" if state.task_id else "")


def _from(shown: Shown) -> str:
    return "declared in the code" if shown.origin == "code" else "added at run time"


def _shown(at: float, zone: dt.tzinfo) -> str:
    moment = dt.datetime.fromtimestamp(at, zone)
    return moment.isoformat(" ", "milliseconds" if at % 1 else "seconds")
