"""``--reload``: the worker starts anew when a file of the project changes. For development.

The worker is a child of this process, which watches and does nothing else. A change ends the worker
warmly and starts another, with all modules imported anew. One that cannot start, because of a
syntax error say, has told so; the next change is its next chance.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

#: Tells a worker that it is the child of one that watches.
VARIABLE = "UMBEL_WORKER_RELOADED"


def is_reloaded() -> bool:
    """Tell whether somebody else watches already."""
    return VARIABLE in os.environ


def run_reloaded(folder: Path) -> int:
    """Run the worker again and again until a signal ends it; return the last one's exit code."""
    stopping = threading.Event()
    worker = _start()

    def stop(signum: int, _frame: FrameType | None) -> None:
        stopping.set()
        # Ctrl-C reaches the whole group of the terminal; the worker need not hear it twice.
        if signum != signal.SIGINT and worker.poll() is None:
            worker.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, stop)
    for changed in _changes(folder, stopping):
        click.echo(f"{changed} changed: starting anew", err=True)
        if worker.poll() is None:
            worker.terminate()
        worker.wait()
        if not stopping.is_set():
            worker = _start()
    return worker.wait()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, *sys.orig_argv[1:]]
    return subprocess.Popen(command, env={**os.environ, VARIABLE: "1"})  # noqa: S603 -- ourselves, again


def _changes(folder: Path, stopping: threading.Event) -> Iterator[str]:
    """Yield one changed file per burst of changes, until stopped."""
    try:
        import watchfiles  # noqa: PLC0415 -- of use to this option alone
    except ImportError as error:
        raise click.UsageError("--reload needs watchfiles: pip install 'umbel[reload]'") from error
    watch = watchfiles.watch(
        folder,
        watch_filter=watchfiles.PythonFilter(extra_extensions=(".toml", ".env")),
        stop_event=stopping,
        raise_interrupt=False,
        rust_timeout=500,
    )
    for changes in watch:
        yield min(path for _, path in changes)
