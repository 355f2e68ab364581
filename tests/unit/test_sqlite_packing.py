"""Rows of messages: headers with the usual names in the usual order, and all others."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from umbel.message import Message
from umbel.servers.sqlite.packing import pack, unpack
from umbel.wire.names import HEADER_ORDER
from umbel.wire.task import TaskEncoder

USUAL = TaskEncoder("tasks.add").encode((1,), {}, id="id-1", sent_at=1.5).headers


@pytest.mark.parametrize(
    "headers",
    [
        USUAL,
        {**USUAL, "mine": 1},
        dict(reversed(USUAL.items())),
        {},
        dict.fromkeys(HEADER_ORDER, "__type__"),
        {**USUAL, "stamps": {"at": UUID(int=7)}},
    ],
)
def test_a_message_comes_back_as_it_was(headers: dict[str, Any]) -> None:
    message = Message("id-1", b"\x00body", headers, "q", priority=3, expires_at=2.5, sent_at=1.5)
    found, problem = unpack(pack(message), message.body)
    assert (found, problem) == (message, None)
    assert list(found.headers) == list(headers)


def test_the_usual_names_are_not_written() -> None:
    data = pack(Message("id-1", b"", USUAL, "q"))
    assert not any(f'"{name}"' in data for name in HEADER_ORDER)


@pytest.mark.parametrize("data", ['["id", [1, 2], "q"]', '["id", 7, "q"]', "[]", "", "{}"])
def test_a_damaged_row_is_a_problem_and_no_exception(data: str) -> None:
    message, problem = unpack(data, b"bytes")
    assert message.body == b"bytes"
    assert problem is not None


#: Place in a row -> values of other types than it has.
WRONG: dict[int, tuple[Any, ...]] = {
    **dict.fromkeys((0, 2, 3, 4, 5, 7), (None, 7, ["text"], {"a": 1})),
    1: (None, 7, "text", [1]),
    **dict.fromkeys((6, 8, 10), (None, "soon", [1])),
    9: ("soon", [1], {"a": 1}),
    11: ("many", [1], 7),
}


def test_a_row_with_values_of_other_types_is_a_problem() -> None:
    good = json.loads(pack(Message("id-1", b"", {}, "q", properties={"type": "t"})))
    for place, values in WRONG.items():
        for wrong in values:
            data = json.dumps([*good[:place], wrong, *good[place + 1 :]])
            assert unpack(data, b"")[1] is not None, (place, wrong)
    for body in ("text", 7, 7.5):
        message, problem = unpack(json.dumps(good), body)  # type: ignore[arg-type]  # as SQLite has it
        assert problem
        assert message.body == str(body).encode()
