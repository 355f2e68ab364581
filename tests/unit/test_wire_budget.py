"""The Python-level calls of the hottest code: exact, and the same on every machine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from umbel.serializers import accepted, json_dumps, json_loads
from umbel.wire import envelope
from umbel.wire.result import decode_meta, encode_meta
from umbel.wire.task import TaskEncoder, decode

ID = "9554f44b-6cc3-413b-8448-35e21b977763"
ENCODER = TaskEncoder("tasks.add", origin="gen1@host")
MESSAGE = ENCODER.encode((1, 2), {}, id=ID, sent_at=1.9e9, reply_to="me")
ENVELOPE = envelope.pack(MESSAGE, delivery_tag=ID)
ACCEPT = accepted(["json"])
MEMBER: dict[str, Any] = {"group_id": "g", "group_index": 3}


def calls(function: Callable[[], object]) -> list[str]:
    """Return the names of the Python functions that one call enters, the lambda left out."""
    entered: list[str] = []

    def notice(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    function()  # what happens once only is not counted
    gc.disable()  # a collection would call finalizers, and who watches it, in between
    sys.setprofile(notice)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return entered[1:]


@pytest.mark.parametrize(
    ("most", "function"),
    [
        (3, lambda: ENCODER.encode((1, 2), {}, id=ID, sent_at=1.9e9, reply_to="me")),
        (4, lambda: ENCODER.encode((1,), {"y": 2}, id=ID, sent_at=1.9e9, reply_to="me")),
        (3, lambda: ENCODER.encode((1, 2), {}, id=ID, sent_at=1.9e9, **MEMBER)),
        (13, lambda: ENCODER.encode((1, 2), {}, id=ID, sent_at=1.9e9, options=MEMBER)),
        (6, lambda: decode(MESSAGE, ACCEPT)),
        (1, lambda: encode_meta(ID, "SUCCESS", result=3, children=(), date_done=1.9e9)),
        (2, lambda: decode_meta(b'{"status": "SUCCESS", "result": 3}')),
        (1, lambda: envelope.pack(MESSAGE, delivery_tag=ID)),
        (9, lambda: envelope.unpack(ENVELOPE)),
        (1, lambda: json_dumps([1, "a"])),
        (1, lambda: json_loads(b'[1, "a"]')),
    ],
    ids=(
        "encode",
        "encode-keywords",
        "encode-member",
        "encode-options",
        "decode",
        "encode_meta",
        "decode_meta",
        "pack",
        "unpack",
        "json_dumps",
        "json_loads",
    ),
)
def test_calls_stay_within_their_budget(most: int, function: Callable[[], object]) -> None:
    entered = calls(function)
    assert len(entered) <= most, entered
