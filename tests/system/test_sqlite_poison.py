"""Rows that no umbel writes, put into the file by another hand: the worker goes on."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.system.engines import running
from umbel import Umbel
from umbel.testing.probe import Probe

HEADERS = {"task": "poison.add", "id": "id-1"}
#: What a row has besides its body: see ``servers.sqlite.packing``.
ROW = ["id-1", HEADERS, "celery", "", "application/json", "utf-8", 0, "", 0.0, None, 0.0, None]
NAMES = (
    *("id", "headers", "key", "exchange", "type", "encoding", "priority", "reply_to"),
    *("not_before", "expires_at", "sent_at", "properties"),
)
BODY = b"[[1, 2], {}, {}]"


def _with(**changes: Any) -> str:
    return json.dumps([changes.get(name, each) for name, each in zip(NAMES, ROW, strict=True)])


POISON = {
    "no content type": (_with(type=""), BODY),
    "no id": (_with(id="", headers={"task": "poison.add"}), BODY),
    "two elements": (_with(), b"[[1, 2], {}]"),
    "not JSON": ("These are my notes", BODY),
    "an empty object": ("{}", BODY),
    "no headers": (_with(headers={}), BODY),
    "headers of another kind": (_with(headers=[1]), BODY),
    "an id of another kind": (_with(id=["i"]), BODY),
    "a due time of another kind": (_with(not_before="soon"), BODY),
    "an expiry of another kind": (_with(expires_at={"a": 1}), BODY),
    "a priority of another kind": (_with(priority=None), BODY),
    "a reply_to of another kind": (_with(reply_to=[7]), BODY),
    "properties of another kind": (_with(properties="many"), BODY),
    "a body of text": (_with(), "[[1, 2], {}, {}]"),
    "a body of numbers": (_with(), 17),
    "a row of bytes": (b"\xff\xfe", BODY),
    "deeply nested": ("[" * 100_000, BODY),
    "a nested body": (_with(), b"[" * 100_000),
}


@pytest.mark.parametrize("number", ["first", "later"])
def test_rows_of_any_kind_end_among_the_dead_letters(tmp_path: Path, number: str) -> None:
    path = tmp_path / "queue.sqlite"
    with Umbel("poison", broker=f"sqlite:///{path}") as app:

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        results = [add.delay(n, n) for n in range(3)] if number == "later" else []
        app.servers().broker.transport.queues()
        add.delay(0, 0)
        _insert(path)
        with running(app), Probe() as probe:
            results += [add.delay(n, n) for n in range(3)]
            assert [each.get(timeout=60) for each in results]
            ledger = app.servers().ledger
            assert ledger is not None
            probe.wait_until(
                lambda: len(ledger.dead_letters()) >= len(POISON), "all to be dead", timeout=10
            )
            assert add.delay(3, 4).get(timeout=60) == 7
        assert all(letter.reason for letter in ledger.dead_letters())
        depth = app.servers().broker.transport.depth(["celery"])["celery"]
        assert (depth.ready, depth.held, depth.delayed) == (0, 0, 0)


def _insert(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        (queue,) = connection.execute("SELECT id FROM queues WHERE name = 'celery'").fetchone()
        (highest,) = connection.execute("SELECT max(id) FROM messages").fetchone()
        connection.executemany(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
            [(highest + n, queue, 9, *row) for n, row in enumerate(POISON.values(), 1)],
        )
    connection.close()
