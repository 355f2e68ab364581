"""Soak for a quarter of an hour, or as long as asked; see ``storm``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from tests.servers import redis_server
from tests.system.soak.storm import soak


def main() -> int:
    """Print the figures; return 1 if something was lost or has grown."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--broker", choices=("sqlite", "redis"), default="sqlite")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="umbel-soak-"))
    print(f"journal and logs: {folder}")
    with _broker(options.broker, folder) as url:
        soaked = soak(folder, url, minutes=options.minutes)
    print(soaked)
    return 1 if soaked.lost or soaked.errors or soaked.grown else 0


@contextlib.contextmanager
def _broker(kind: str, folder: Path) -> Generator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/broker.sqlite"
        return
    with redis_server(folder / "redis") as server:
        yield server.url


if __name__ == "__main__":
    sys.exit(main())
