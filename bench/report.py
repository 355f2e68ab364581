"""Tables for the terminal and for RESULTS.md, which keeps one section a commit.

A section is headed by the commit; below it stands one part a case, with when and how it was
measured. Measuring a case again at the same commit replaces its part, and nothing else.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.figures import Metric, Rounds, Target, median
from bench.processes import ROOT
from bench.system import System
from bench.systems import SYSTEMS

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = """# Results of `make bench`

Medians of interleaved rounds, (least-most) in brackets. The machine is noisy and differs from
section to section: compare what stands in one table. A column "umbel ÷" is the median of the
rounds' ratios.

Who is measured, and what it promises: when a task is acknowledged (*late*: after it ran), and how
SQLite's file is synchronised (`OFF`, `NORMAL`: what was stored survives the death of every process;
`FULL`: also a power cut, for an fsync a commit). All use a write-ahead log, store results, and lie
on the same disk. Each has a server of its own; Redis keeps nothing on disk, RabbitMQ everything.

"""


def table(rounds: Rounds) -> str:
    """Return a case's table, its targets and its failures."""
    case = rounds.case
    rows = [_headings(case.metrics)]
    rows += [_row(rounds, name) for name in case.systems if any(rounds.values.get(name, []))]
    parts = [case.method, _grid(rows)]
    judged = [line for target in case.targets if (line := _verdict(rounds, target))]
    parts.append("\n".join(judged))
    parts += [f"{name} failed: {reason}" for name, reason in rounds.failures.items()]
    return "\n\n".join(part for part in parts if part)


def record(results: Sequence[Rounds], note: str, *, scale: float) -> None:
    """Write the tables into RESULTS.md, under this commit."""
    parts = {
        each.case.title: f"{facts(each, scale)} {note}".strip() + f"\n\n{table(each)}"
        for each in results
    }
    text = RESULTS.read_text() if RESULTS.exists() else ""
    RESULTS.write_text(HEAD + _promises() + merged(text, commit(), parts))


def merged(text: str, heading: str, parts: Mapping[str, str]) -> str:
    """Return the sections of a text, newest first, with these parts in the one so headed."""
    sections = {title: dict(_split(body, "### ")) for title, body in _split(text, "## ")}
    newest = {**sections.pop(heading, {}), **parts}
    return "".join(
        f"\n## {title}\n" + "".join(f"\n### {name}\n\n{part}\n" for name, part in section.items())
        for title, section in {heading: newest, **sections}.items()
    )


def commit() -> str:
    """Return what names the code that was measured."""
    sha = _git("rev-parse", "--short=9", "HEAD")
    changed = "+ (with changes)" if _git("status", "--porcelain", "--", "src", "bench/*.py") else ""
    return f"{sha}{changed}"


def facts(rounds: Rounds, scale: float) -> str:
    """Return when, where and how a case was measured."""
    count = max((len(values) for values in rounds.values.values()), default=0)
    today = dt.datetime.now(tz=dt.UTC).date()
    return (
        f"{today}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; "
        f"{count} rounds, amounts of work times {scale:g}."
    )


def _headings(metrics: Sequence[Metric]) -> list[str]:
    cells = [""]
    for metric in metrics:
        cells += [metric.heading, "umbel ÷"] if metric.compared else [metric.heading]
    return cells


def _row(rounds: Rounds, name: str) -> list[str]:
    cells = [name]
    for metric in rounds.case.metrics:
        cells.append(_cell(rounds.of(name, metric.key), metric.decimals))
        if metric.compared:
            ours = rounds.case.ours
            ratio = rounds.ratio(metric.key, ours, name)
            cells.append("" if math.isnan(ratio) or name == ours else f"{ratio:.2f}")
    return cells


def _cell(values: Sequence[float], decimals: int) -> str:
    if not values:
        return ""
    middle, least, most = (f"{v:,.{decimals}f}" for v in (median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}-{most})"


def _verdict(rounds: Rounds, target: Target) -> str:
    value, reached = rounds.judge(target)
    if math.isnan(value):
        return ""  # one of the two was not measured
    headings = {metric.key: metric.heading for metric in rounds.case.metrics}
    what = f"{target.system or rounds.case.ours}: {headings[target.metric]}"
    if target.of or target.of_metric:
        what += f" ÷ {target.of or headings[target.of_metric]}"
    bound = f"≥ {target.least:,g}" if target.least > -math.inf else f"≤ {target.most:,g}"
    return f"- {'reached' if reached else '**missed**'}: {what} = {value:,.4g}, wanted {bound}"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _promises() -> str:
    rows = [["", "version", "promise"]]
    rows += [[system.name, _version(system), system.promise] for system in SYSTEMS]
    return _grid(rows) + "\n"


def _version(system: System) -> str:
    if not system.package:
        if system.on_rabbitmq:
            return "pika " + version("pika")
        if system.on_redis:
            return "redis-py " + version("redis")
        return f"sqlite3 {sqlite3.sqlite_version}"
    return system.version or version(system.package)


def _split(text: str, mark: str) -> list[tuple[str, str]]:
    """Split a text at its headings; what stands before the first is left out."""
    parts = (part.partition("\n") for part in f"\n{text}".split(f"\n{mark}")[1:])
    return [(title, rest.strip()) for title, _, rest in parts]


def _git(*args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30.0
    )
    return done.stdout.strip() or ("no commit" if done.returncode else "")
