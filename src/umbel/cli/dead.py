"""``umbel dead``: the messages that were given up, and what to do about them."""

from __future__ import annotations

import datetime as dt
import json
import pprint
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

import click

from umbel.app import Umbel
from umbel.cli.asking import agree
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.moments import moment
from umbel.cli.names import names
from umbel.cli.numbers import Whole
from umbel.cli.texts import table
from umbel.clock import SYSTEM_CLOCK
from umbel.control.letters import Wanted, drop, find_letters, requeue, task_of
from umbel.control.wording import count, duration
from umbel.exceptions import InvalidTaskError, SerializationError
from umbel.opened import Servers
from umbel.serializers import accepted
from umbel.servers.seams import DeadLetter
from umbel.wire.task import decode

F = TypeVar("F", bound=Callable[..., Any])

_FILTERS: tuple[Callable[[Any], Any], ...] = (
    click.option("-t", "--task", "tasks", default="", callback=names, help="Of these tasks: a,b.*"),
    click.option("--reason", default="", help="Whose reason contains this."),
    click.option("-Q", "--queues", default="", callback=names, help="From these queues: a,b,…"),
    click.option(
        "--since", "died_since", callback=moment, help="Died since: 2h (ago), 7d, or a date."
    ),
    click.option(
        "--older-than", "died_before", callback=moment, help="Died before: 2h (ago), 7d, or a date."
    ),
)


def _filters(function: F) -> F:
    for option in reversed(_FILTERS):
        function = option(function)
    return function


@click.group("dead")
def command() -> None:
    """List, show, requeue or drop dead letters: messages that will not be tried again.

    Each keeps the reason. IDs are those of the tasks.
    """


@command.command("list", short_help="List dead letters.")
@shared_options
@_filters
@click.argument("ids", nargs=-1)
@click.option("--limit", type=Whole(min=1), help="At most so many, the oldest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(ctx: click.Context, /, *, limit: int | None, as_json: bool, **wanted: Any) -> None:
    """List dead letters, oldest first."""
    with open_app(given(ctx)) as app:
        found = find_letters(app.servers(), _wanted(**wanted))
        letters = list(islice(found, limit))
    if as_json:
        click.echo(json.dumps([_as_data(each) for each in letters], default=repr))
    elif letters:
        heads = ("id", "task", "queue", "died", "reason")
        click.echo(table(heads, [_row(each) for each in letters]), color=given(ctx).color)
    else:
        click.echo("umbel: no dead letters", err=True)


@command.command("show", short_help="Show all that is known about one.")
@shared_options
@click.argument("task_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show_command(ctx: click.Context, /, *, task_id: str, as_json: bool) -> None:
    """Show a dead letter with its arguments and headers."""
    with open_app(given(ctx)) as app:
        letters = list(find_letters(app.servers(), Wanted(frozenset({task_id}))))
        if not letters:
            raise click.ClickException(f"there is no dead letter of the task {task_id}")
        details = [{**_as_data(each), **_content(app, each)} for each in letters]
    for each in details:
        click.echo(json.dumps(each, default=repr) if as_json else _page(each))


@command.command("requeue", short_help="Send dead letters to their queues again.")
@shared_options
@_filters
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def requeue_command(
    ctx: click.Context, /, *, everything: bool, as_json: bool, **wanted: Any
) -> int:
    """Send dead letters to their queues again, as if they had never been tried."""
    with open_app(given(ctx)) as app:
        letters = _chosen(app.servers(), wanted, everything=everything)
        done = _progress(requeue(app.servers(), letters), len(letters), quiet=given(ctx).quiet)
    left = len(letters) - done
    if as_json:
        click.echo(json.dumps({"requeued": done, "left": left}))
    else:
        rest = f"; {left} stay, because their queue does not exist" if left else ""
        click.echo(f"Requeued {count(done, 'dead letter')}{rest}.")
    return 1 if left else 0


@command.command("drop", short_help="Delete dead letters.")
@shared_options
@_filters
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that there are.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def drop_command(
    ctx: click.Context, /, *, everything: bool, force: bool, as_json: bool, **wanted: Any
) -> None:
    """Delete dead letters. It cannot be undone."""
    with open_app(given(ctx)) as app:
        letters = _chosen(app.servers(), wanted, everything=everything)
        if letters and not force:
            agree(f"Delete {count(len(letters), 'dead letter')} for ever?")
        done = _progress(drop(app.servers(), letters), len(letters), quiet=given(ctx).quiet)
    click.echo(
        json.dumps({"dropped": done}) if as_json else f"Deleted {count(done, 'dead letter')}."
    )


def _wanted(ids: Sequence[str], **filters: Any) -> Wanted:
    return Wanted(frozenset(ids), **filters)


def _chosen(servers: Servers, wanted: dict[str, Any], *, everything: bool) -> list[DeadLetter]:
    if not everything and not any(value or value == 0 for value in wanted.values()):
        raise click.UsageError("which ones? Give ids or a filter, or --all")
    letters = list(find_letters(servers, _wanted(**wanted)))
    missing = set(wanted["ids"]) - {each.message.id for each in letters}
    for task_id in sorted(missing):
        click.echo(f"umbel: note: no such dead letter: {task_id}", err=True)
    return letters


def _progress(pages: Iterable[tuple[int, int]], length: int, *, quiet: bool) -> int:
    """Go through the pages with a bar on a terminal; return how many letters it was done to."""
    done = 0
    hidden = quiet or not sys.stderr.isatty()
    with click.progressbar(length=length, file=sys.stderr, hidden=hidden) as bar:
        for tried, took in pages:
            done += took
            bar.update(tried)
    return done


def _row(letter: DeadLetter) -> tuple[str, ...]:
    reason = " ".join(letter.reason.split())
    return (
        letter.message.id,
        task_of(letter) or "?",
        letter.queue,
        f"{duration(SYSTEM_CLOCK.now() - letter.died_at)} ago",
        reason if len(reason) <= 80 else f"{reason[:79]}…",
    )


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    died_at = dt.datetime.fromtimestamp(letter.died_at, dt.UTC)
    return {
        "task_id": letter.message.id,
        "task": task_of(letter),
        "queue": letter.queue,
        "reason": letter.reason,
        "died_at": died_at.isoformat(),
        "crashes": letter.crashes,
        "key": letter.key,
    }


def _content(app: Umbel, letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    try:
        request = decode(message, accepted(app.conf.accept_content))
        content = {"args": list(request.args), "kwargs": dict(request.kwargs)}
    except (SerializationError, InvalidTaskError) as error:
        content = {"body": repr(message.body[:1000]), "problem": str(error)}
    return {**content, "headers": message.headers}


def _page(details: dict[str, Any]) -> str:
    lines = []
    for name, value in details.items():
        text = value if isinstance(value, str) else pprint.pformat(value, sort_dicts=False)
        lines.append(f"{name + ':':10} {text.replace(chr(10), chr(10) + ' ' * 11)}")
    return "\n".join(lines)
