"""What a worker prints when it starts: who it is, where it takes its work from, what it can do."""

from __future__ import annotations

import datetime as dt
import logging
import platform
from collections.abc import Iterable, Iterator

import click

from umbel.clock import SYSTEM_CLOCK
from umbel.topology import Queue
from umbel.version import VERSION
from umbel.worker.launch import Worker

_ART = ("  o  o o  o  ", "   \\ \\ / /   ", "    \\\\|//    ", "      |      ")
#: Least width of the names in the sections.
_NAMES = 14
#: What there is not without a ledger.
_MISSED = "deaths are not counted, revocations have no effect"


def banner(worker: Worker, level: int) -> str:
    """Return the banner of a worker that logs at this level; styled, for ``click.echo``."""
    lines = [
        "",
        *_heading(worker.node),
        "",
        *_section("config", _config(worker, level)),
        *_section("queues", map(_queue, worker.queues)),
        *_section("tasks", ((name, "") for name in _tasks(worker))),
    ]
    return "\n".join(lines)


def _heading(node: str) -> Iterator[str]:
    now = dt.datetime.fromtimestamp(SYSTEM_CLOCK.now()).astimezone()
    facts = (
        "",
        click.style(f"{node} v{VERSION}", bold=True),
        f"{platform.platform()}, Python {platform.python_version()}",
        now.isoformat(" ", "seconds"),
    )
    for art, fact in zip(_ART, facts, strict=True):
        yield f"{click.style(art, fg='green')} {fact}".rstrip()


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield click.style(f"[{title}]", fg="cyan")
    listed = list(rows)
    width = max(_NAMES, *(len(name) for name, value in listed if value), 0)
    for name, value in listed:
        yield f"  {name:{width}} {value}".rstrip()
    yield ""


def _config(worker: Worker, level: int) -> Iterator[tuple[str, str]]:
    servers = worker.app.servers()
    store = servers.store.display_url if servers.store else "on the same server"
    main = getattr(worker.app, "main", None) or "(no name)"
    shows = "" if level <= logging.INFO else " (-l INFO shows every task)"
    yield "app:", main
    yield "transport:", servers.broker.display_url
    yield "results:", store
    if servers.ledger is None:
        yield "ledger:", f"none: {_MISSED} (ledger_url names a place)"
    elif servers.companion is not None:
        yield "ledger:", servers.companion.display_url
    yield "concurrency:", f"{worker.concurrency} ({worker.pool})"
    yield "log level:", f"{logging.getLevelName(level)}{shows}"


def _queue(queue: Queue) -> tuple[str, str]:
    exchange = queue.exchange
    return queue.name, f"exchange={exchange.name}({exchange.type}) key={queue.routing_key}"


def _tasks(worker: Worker) -> list[str]:
    own = worker.app.tasks.own()  # type: ignore[attr-defined]
    return own or ["(none: no module that was imported defines one)"]
