# mypy: disable-error-code="untyped-decorator"
"""Capture workflows from a real Celery: `python -m tests.interop.capture_canvas`, by hand.

Builds the expressions of `canvases.py` with Celery, sends each over its memory transport with a
private Redis for results, and writes the shapes and messages into golden/canvas.json.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import celery
from celery import Celery, chain, chord, group

from tests import servers
from tests.interop import canvases

GOLDEN = Path(__file__).parent / "golden" / "canvas.json"


def _names(app: Any) -> Any:
    def chunks(name: str, size: int) -> Any:
        numbers = range(4)
        return app.tasks[name].chunks(zip(numbers, numbers, strict=True), size)

    for name in "abcdefg":
        app.task(name=name)(_returning())
    return SimpleNamespace(chain=chain, group=group, chord=chord, call=app.signature, chunks=chunks)


def _returning() -> Any:
    def task(*args: Any) -> Any:
        return args

    return task


def _drained(app: Any) -> list[tuple[Any, Any]]:
    with app.connection() as connection:
        channel = connection.default_channel
        taken = itertools.takewhile(
            bool, (channel.basic_get("celery", no_ack=True) for _ in range(99))
        )
        return [(each.headers, json.loads(each.body)) for each in taken]


def main() -> None:
    """Write the golden file."""
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, servers.redis_server(Path(folder)) as redis:
        app: Any = Celery("canvas", broker="memory://", backend=redis.url)
        names = _names(app)
        for name, build in canvases.SHAPES.items():
            cases[name] = {"shape": canvases.shape(build(names))}
            workflow = build(names)
            if name not in ("chain()", "group()"):
                workflow.apply_async()
            cases[name]["sent"] = canvases.sent(_drained(app))
    text = json.dumps({"celery": celery.__version__, "cases": cases}, indent=1)
    GOLDEN.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
