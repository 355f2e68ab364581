# mypy: disable-error-code="untyped-decorator"
"""Workflows that run partly in Celery's workers and partly in ours; and Celery's side of them.

celery -A tests.system.fleet worker -Q theirs
python -m tests.system.fleet                    sends all workflows, prints what became of them
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from celery import Celery
from celery import chain as celery_chain
from celery import chord as celery_chord
from celery import group as celery_group

OURS, THEIRS = "ours", "theirs"
#: Seconds.
PATIENCE = 60.0


class Parts(NamedTuple):
    """What workflows are made of: Celery's or ours."""

    app: Any
    chain: Any
    group: Any
    chord: Any


def add(x: int, y: int = 1) -> int:
    return x + y


def total(numbers: list[int]) -> int:
    return sum(numbers)


def same(*values: Any) -> Any:
    return values[0] if len(values) == 1 else list(values)


def fail(*_: Any) -> None:
    raise ValueError("as asked")


FUNCTIONS = (add, total, same, fail)


def workflows(c: Parts) -> list[tuple[Any, Any]]:
    """Return workflows, and what is to come of them: a value, or the name of an exception."""

    def on(queue: str, name: str, *args: Any) -> Any:
        return c.app.signature(f"fleet.{name}", args).set(queue=queue)

    def both(first: str, second: str) -> list[tuple[Any, Any]]:
        header = [on(first if n % 2 else second, "add", n, n) for n in range(6)]
        inner = c.chord([on(second, "add", 1, 1), on(first, "add", 2, 2)], on(second, "total"))
        return [
            (on(first, "add", 1, 2) | on(second, "add", 3) | on(first, "add", 4), 10),
            (c.group(header), [0, 2, 4, 6, 8, 10]),
            (c.chord(header, on(first, "total")), 30),
            (c.chord(header, on(first, "total") | on(second, "add", 1)), 31),
            (
                on(first, "add", 1, 1)
                | c.group(on(second, "add", 1), on(first, "add", 2))
                | on(second, "total")
                | on(first, "add", 1),
                8,
            ),
            (
                c.chord([on(second, "add", 1, 1) | on(first, "add", 2), inner], on(first, "same")),
                [4, 6],
            ),
            (
                c.chord([on(first, "add", 1, 1), on(second, "fail")], on(first, "total")),
                "ChordError",
            ),
            (
                c.chord([on(first, "fail") | on(second, "add", 1)], on(second, "total"))
                | on(first, "add", 1),
                "ChordError",
            ),
            (on(first, "fail") | on(second, "add", 1) | on(first, "add", 1), "ValueError"),
        ]

    return both(OURS, THEIRS) + both(THEIRS, OURS)


def outcome(result: Any) -> Any:
    # Celery's client would raise what the header's member raised, not the body's own error.
    options = {} if hasattr(result, "results") else {"follow_parents": False}
    try:
        return result.get(timeout=PATIENCE, **options)
    except Exception as error:  # noqa: BLE001 -- its name is the outcome
        return type(error).__name__


app = Celery("fleet", broker=os.environ.get("FLEET"), backend=os.environ.get("FLEET"))
app.conf.broker_connection_retry_on_startup = True
for function in FUNCTIONS:
    app.task(name=f"fleet.{function.__name__}")(function)


def main() -> None:
    """Send all as a Celery client."""
    sent = [
        (workflow.apply_async(), expected)
        for workflow, expected in workflows(Parts(app, celery_chain, celery_group, celery_chord))
    ]
    print(json.dumps([[outcome(result), expected] for result, expected in sent]))


if __name__ == "__main__":
    main()
