"""``umbel top``: workers, what their processes run, rates and queues, live on the terminal.

Everything shown is read from the ledger and the broker; no worker is asked. A node tells what its
processes run every second while they run something, so this is as old as that at most.
"""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.numbers import interval_option
from umbel.cli.queues import HEADS, row, see_queues
from umbel.clock import SYSTEM_CLOCK
from umbel.control.nodes import WorkerNode, living_nodes
from umbel.control.queues import QueueSight
from umbel.control.wording import count, duration
from umbel.exceptions import TransportError

#: Seconds over which rates are averaged.
WINDOW = 10.0
#: Columns where there is no terminal that has some.
WIDTH = 160


@click.command("top")
@shared_options
@click.option("--once", is_flag=True, help="Print it once, for scripts.")
@interval_option
@click.pass_context
def command(ctx: click.Context, /, *, once: bool, interval: float) -> None:
    """Show workers, what each process runs and for how long, rates, and queues; q ends it."""
    view = View()
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(no_color=given(ctx).color is False, highlight=False, width=width)
    with open_app(given(ctx)) as app:
        view.look(app)
        if once:
            console.print(view)
        else:
            _follow(app, view, console, interval)


def _follow(app: Umbel, view: View, console: Console, interval: float) -> None:
    if not (sys.stdin.isatty() and console.is_terminal):
        raise click.UsageError("this is no terminal: --once prints it once")
    with _keys(), Live(view, console=console, screen=True, auto_refresh=False) as live:
        while not _quits(interval):
            try:
                view.look(app)
            except TransportError as error:
                view.problem = str(error)
            live.refresh()


@contextlib.contextmanager
def _keys() -> Generator[None]:
    """Read keys without waiting for the end of a line."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits(seconds: float) -> bool:
    """Wait so long; tell whether q was pressed."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) and sys.stdin.read(1) in ("q", "Q", "")


@dataclass(slots=True)
class View:
    """What was seen last, and when how many tasks had been done."""

    nodes: Sequence[WorkerNode] = ()
    queues: Sequence[QueueSight] = ()
    #: There is a ledger in which workers tell of themselves.
    told: bool = True
    #: Why it could not be seen anew; "" = it could.
    problem: str = ""
    _at: float = 0.0
    _done: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def look(self, app: Umbel) -> None:
        """See it anew."""
        ledger = app.servers().ledger
        self.take(living_nodes(ledger), see_queues(app), SYSTEM_CLOCK.now())
        self.told = ledger is not None

    def take(self, nodes: Sequence[WorkerNode], queues: Sequence[QueueSight], now: float) -> None:
        """Take what was seen."""
        self.nodes, self.queues, self.problem, self._at = nodes, queues, "", now
        self._done = {node.name: self._done.get(node.name, deque()) for node in nodes}
        for node in nodes:
            seen = self._done[node.name]
            seen.append((now, node.processed))
            while seen[0][0] < now - WINDOW and len(seen) > 2:
                seen.popleft()

    def rate(self, node: WorkerNode) -> float:
        """Return tasks per second of a node, over the last seconds."""
        (first_at, first), (last_at, last) = self._done[node.name][0], self._done[node.name][-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def __rich__(self) -> Group:
        """Return it for the screen."""
        rate = sum(map(self.rate, self.nodes))
        running = sum(process.count for node in self.nodes for process in node.processes)
        heading = f"{count(len(self.nodes), 'worker')}, {running} running, {rate:.1f} tasks/s"
        if not self.told:
            heading = "this broker has no ledger: workers tell nobody of themselves"
        problem = [Text(f"cannot look: {self.problem}", style="red")] if self.problem else []
        return Group(Text(heading, style="bold"), *problem, "", self._work(), "", self._queues())

    def _work(self) -> Table:
        table = Table("worker", "process", "task", "id", box=None, header_style="cyan")
        table.add_column("for", justify="right")
        table.add_column("done", justify="right")
        table.add_column("tasks/s", justify="right")
        for node in self.nodes:
            table.add_row(node.name, "", "", "", "", str(node.processed), f"{self.rate(node):.1f}")
            for cells in self._processes(node):
                table.add_row("", *cells)
        return table

    def _processes(self, node: WorkerNode) -> Iterable[tuple[str, ...]]:
        for process in node.processes:
            pid, done = str(process.pid), str(process.processed)
            if not process.running:
                yield pid, "-", "", "", done
            for task in process.running[:5]:
                yield pid, task.name, task.id, duration(self._at - task.since), done
                pid = done = ""
            if process.count > 5:
                yield "", f"and {process.count - 5} more", "", "", ""

    def _queues(self) -> Table:
        table = Table(box=None, header_style="cyan")
        for head in HEADS:
            table.add_column(head, justify="left" if head == HEADS[0] else "right")
        for each in self.queues:
            table.add_row(*row(each))
        return table
