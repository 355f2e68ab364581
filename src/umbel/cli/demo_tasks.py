"""The tasks of ``umbel demo``: a module as you would write it for your own project.

Where the broker is, its worker and its caller are told on the command line and in the program.
"""

from __future__ import annotations

import os
import time
import tokenize
from pathlib import Path
from typing import TypedDict

from umbel.app import Umbel
from umbel.cli.demo_analysis import Facts, survey

app = Umbel("demo")


class Analysis(TypedDict):
    """What the task returns: JSON, as every result."""

    module: str
    facts: Facts
    #: Which process ran it, from when on (on this machine's monotonic clock), for how many seconds.
    pid: int
    started: float
    seconds: float


@app.task
def analyse(path: str, module: str) -> Analysis:
    """Read one module's source and count what is in it."""
    started = time.perf_counter()
    with tokenize.open(Path(path)) as file:
        facts = survey(file.read())
    return {
        "module": module,
        "facts": facts,
        "pid": os.getpid(),
        "started": started,
        "seconds": time.perf_counter() - started,
    }
