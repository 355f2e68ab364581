"""``umbel workflow``: show a workflow as a tree, with the state of each part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.numbers import interval_option
from umbel.clock import SYSTEM_CLOCK
from umbel.control.facts import gather
from umbel.control.why import answer
from umbel.result import AsyncResult, GroupResult

#: Unfinished tasks that are named.
_NAMED = 10


@click.command("workflow")
@shared_options
@click.argument("task_id", metavar="ID")
@click.option("--dot", is_flag=True, help="Print it in Graphviz's language: pipe it to dot -Tsvg.")
@click.option("-f", "--follow", is_flag=True, help="Show it anew until all of it has ended.")
@interval_option
@click.pass_context
def command(
    ctx: click.Context, /, *, task_id: str, dot: bool, follow: bool, interval: float
) -> None:
    """Print the workflow that the task ID is part of, from its first task on.

    What is known of it is what was stored: a task that has not run yet is seen if its id is in the
    result of one that has. Of those that the workflow waits for it is said why they do not run.
    """
    with open_app(given(ctx)) as app:
        if dot:
            click.echo(_root(app, task_id).graph.to_dot(), nl=False)
        elif follow:
            _follow(app, task_id, interval)
        else:
            for line in _Sight.of(app, task_id).lines:
                click.echo(line)


def _follow(app: Umbel, task_id: str, interval: float) -> None:
    """Show it until it has ended; where there is no terminal, only then."""
    with Live(console=Console(highlight=False, soft_wrap=True), auto_refresh=False) as live:
        while True:
            sight = _Sight.of(app, task_id)
            live.update(Text("\n".join(sight.lines)), refresh=True)
            if sight.has_ended:
                return
            SYSTEM_CLOCK.sleep(interval)


class _Sight(NamedTuple):
    """A workflow as it was seen."""

    lines: list[str]
    has_ended: bool

    @classmethod
    def of(cls, app: Umbel, task_id: str) -> _Sight:
        """Look."""
        unfinished: list[str] = []
        lines = list(_lines(_root(app, task_id), unfinished))
        lines += [
            f"waits for {each}: {answer(gather(app, each)).text}" for each in unfinished[:_NAMED]
        ]
        if len(unfinished) > _NAMED:
            lines.append(f"and for {len(unfinished) - _NAMED} more")
        return cls(lines, not unfinished)


def _root(app: Umbel, task_id: str) -> AsyncResult[Any]:
    """Return the result of the first task, as far as results tell who sent whom."""
    result, seen = app.AsyncResult(task_id), {task_id}
    while (parent_id := result.meta().get("parent_id")) and parent_id not in seen:
        seen.add(parent_id)
        result = app.AsyncResult(parent_id)
    return result


def _lines(root: AsyncResult[Any], unfinished: list[str]) -> Iterator[str]:
    """Yield a line for each part. What follows a single task stands below it, not within it."""
    seen: set[str] = set()
    waiting: list[tuple[int, Any]] = [(0, root)]
    while waiting:
        depth, node = waiting.pop()
        if str(node) in seen:
            continue
        seen.add(str(node))
        yield f"{'  ' * depth}{_about(node)}"
        following = node.results if isinstance(node, GroupResult) else _sent_by(node, unfinished)
        within = depth + (isinstance(node, GroupResult) or len(following) > 1)
        waiting += ((within, each) for each in reversed(following))


def _sent_by(node: AsyncResult[Any], unfinished: list[str]) -> list[Any]:
    """Return what a task sent; the header of a chord stands before its body."""
    if not node.ready():
        unfinished.append(node.id)
    return [part for each in node.children or () for part in (*reversed([*each.ancestors()]), each)]


def _about(node: Any) -> str:
    if isinstance(node, GroupResult):
        return f"group of {len(node.results)}  {node.id}"
    return f"{node.state:<8} {node.id}{f'  {node.name}' if node.name else ''}"
