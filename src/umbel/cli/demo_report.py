"""What ``umbel demo`` shows: progress while it runs, then what was found and who did what."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from umbel.cli.demo_analysis import Facts
from umbel.cli.demo_tasks import Analysis

T = TypeVar("T")

#: Rows of a table of the largest.
TOP = 5


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the demo learnt. Times are seconds from the start of the sending."""

    analyses: tuple[Analysis, ...]
    failed: Mapping[str, BaseException]
    #: Until all calls were sent; until the first result; until the last.
    sending: float
    waiting: float
    total: float
    #: The worker's command line.
    worker: str
    broker: str


def shown_progress(items: Iterable[T], total: int, console: Console) -> Iterator[T]:
    """Yield the items while a bar shows their progress; without a terminal, lines do."""
    if not console.is_terminal:
        for count, item in enumerate(items, 1):
            if count == total or count * 10 // total > (count - 1) * 10 // total:
                console.print(f"analysed {count} of {total} modules")
            yield item
        return
    columns = (TextColumn("analysing"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        for item in items:
            progress.advance(bar)
            yield item


def print_report(report: Report, console: Console) -> None:
    """Print what was found, then how."""
    analyses = report.analyses
    _heading(f"The standard library of Python {platform.python_version()}", console)
    _lines(_summary([each["facts"] for each in analyses]), console)
    for table in _findings(analyses):
        console.print()
        console.print(table)
    _lines((f"{name}: {error!r}" for name, error in report.failed.items()), console)
    _heading("How it was done", console)
    _lines(_course(report), console)
    console.print()
    console.print(_processes(analyses))


def _heading(text: str, console: Console) -> None:
    console.print(f"\n{text}\n", style="bold", markup=False)


def _lines(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)


# -- what was found --------------------------------------------------------------------------------


def _summary(facts: Sequence[Facts]) -> Iterator[str]:
    lines = Counter[str]()
    for each in facts:
        lines.update(each["lines"])
    total = lines.pop("total", 0)
    kinds = ", ".join(f"{kind} {_percent(count, total)}" for kind, count in lines.items())
    yield f"{len(facts):,} modules, {total:,} lines: {kinds}"
    functions = sum(each["functions"] for each in facts)
    yield f"{functions:,} functions, {sum(each['classes'] for each in facts):,} classes"
    documented = sum(each["documented"] for each in facts)
    documentable = sum(each["documentable"] for each in facts)
    yield f"{_percent(documented, documentable)} of modules, classes, functions have a docstring"
    annotated = sum(each["annotated"] for each in facts)
    yield f"{_percent(annotated, functions)} of functions have an annotation"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _findings(analyses: Sequence[Analysis]) -> Iterator[Table]:
    sizes = [(each["module"], each["facts"]["lines"]["code"]) for each in analyses]
    yield _top("Largest modules", "lines of code", sizes)
    yield _top("Longest functions", "lines", _functions(analyses, "longest", "lines"))
    yield _top("Most branches", "branches", _functions(analyses, "most_branches", "branches"))
    yield _top("Deepest nesting", "blocks", _functions(analyses, "deepest", "depth"))
    imports = Counter(name for each in analyses for name in each["facts"]["imports"])
    yield _top("Most imported", "modules", imports.items())


def _functions(
    analyses: Iterable[Analysis],
    which: Literal["longest", "most_branches", "deepest"],
    count: Literal["lines", "branches", "depth"],
) -> Iterator[tuple[str, int]]:
    for each in analyses:
        function = each["facts"][which]
        if function is not None:
            yield f"{each['module']}.{function['name']}", function[count]


def _top(title: str, unit: str, rows: Iterable[tuple[str, int]]) -> Table:
    table = _table((title, 60), (unit, 14))
    for name, count in sorted(rows, key=lambda row: (-row[1], row[0]))[:TOP]:
        table.add_row(Text(f"  {name}"), f"{count:,}")
    return table


def _table(first: tuple[str, int], *others: tuple[str, int]) -> Table:
    table = Table(box=None, padding=0, header_style="cyan")
    title, width = first
    table.add_column(f"  {title}", width=width, no_wrap=True)
    for name, width in others:
        table.add_column(name, justify="right", width=width, no_wrap=True)
    return table


# -- how it was done -------------------------------------------------------------------------------


def _course(report: Report) -> Iterator[str]:
    calls = len(report.analyses) + len(report.failed)
    lines = sum(each["facts"]["lines"]["total"] for each in report.analyses)
    yield f"sent      {calls:,} calls as one group in {report.sending:.2f} s"
    yield f"worker    {report.worker}"
    yield f"results   the first after {report.waiting:.2f} s, all after {report.total:.2f} s"
    working = report.total - report.waiting
    if working > 0:
        yield f"rate      {calls / working:,.0f} modules/s, {lines / working:,.0f} lines/s"
    yield f"broker    {report.broker} (deleted now)"


def _processes(analyses: Sequence[Analysis]) -> Table:
    """Show who did what, and how busy he was while there was anything to do."""
    begun = min((each["started"] for each in analyses), default=0.0)
    ended = max((each["started"] + each["seconds"] for each in analyses), default=0.0)
    by_pid: dict[int, list[float]] = {}
    for each in analyses:
        by_pid.setdefault(each["pid"], []).append(each["seconds"])
    table = _table(("process", 12), ("tasks", 8), ("busy", 10), ("of the time", 12))
    for pid, seconds in sorted(by_pid.items()):
        busy = sum(seconds)
        share = _percent(busy, ended - begun)
        table.add_row(f"  {pid}", f"{len(seconds):,}", f"{busy:.2f} s", share)
    return table
