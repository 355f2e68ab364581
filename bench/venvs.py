"""An environment for each peer, made once; the project's own is the one we run in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from bench.system import System

#: Below it lie the peers' environments and the files of a run.
CACHE = Path(__file__).parent / ".cache"
#: Seconds that an installation may take.
INSTALL = 300.0


def python_of(system: System) -> Path:
    """Return the interpreter that a system runs in, its environment made if it is not there."""
    if not system.requirement:
        return Path(sys.executable)
    # Brackets mean something to libraries that look for their files with patterns.
    name = re.sub(r"[^\w.=-]+", "-", system.requirement)
    folder = CACHE / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-qq", *system.requirement.split()],
            check=True,
            timeout=INSTALL,
        )
        done.touch()
    return python
