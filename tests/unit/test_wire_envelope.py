"""The Redis envelope, and the times in headers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_values import examples, values
from umbel.exceptions import EncodeError, InvalidTaskError
from umbel.message import Message
from umbel.wire import envelope
from umbel.wire.task import TaskEncoder
from umbel.wire.times import due, from_iso, to_iso

_NAMES = st.text().filter(str.isprintable)


@examples
@given(st.binary(), st.dictionaries(_NAMES.filter(bool), values), _NAMES, _NAMES, st.integers(0, 9))
def test_messages_come_back(
    body: bytes, headers: dict[str, Any], exchange: str, key: str, priority: int
) -> None:
    for clash in ("id", "eta", "expires"):
        headers.pop(clash, None)
    message = Message("i", body, headers, key, exchange, priority=priority, reply_to="r")
    assert envelope.unpack(envelope.pack(message, delivery_tag="t")) == (message, None)


@pytest.mark.parametrize(
    "properties",
    [
        None,
        {"message_id": "m", "delivery_mode": 1},
        {"priority": 12},
        {"priority": -1},
        {"correlation_id": "other"},
        {"expiration": "5"},
    ],
)
def test_properties_come_back(properties: dict[str, Any] | None) -> None:
    raw = (properties or {}).get("priority", 4)
    message = Message(
        "i", b"x", {"id": "i"}, "q", priority=min(max(raw, 0), 9), properties=properties
    )
    data = envelope.pack(message, delivery_tag="t")
    assert json.loads(data)["properties"]["priority"] == raw
    assert envelope.unpack(data) == (message, None)


def test_times_are_read_from_the_headers() -> None:
    options = {"not_before": 1.9e9, "expires_at": 1.95e9 + 0.25}
    message = TaskEncoder("t").encode((), {}, id="i", sent_at=0.0, options=options)
    found, _ = envelope.unpack(envelope.pack(message, delivery_tag="t"))
    assert (found.not_before, found.expires_at) == (1.9e9, 1.95e9 + 0.25)


def test_the_smallest_envelope_of_a_celery_peer() -> None:
    least = {
        "body": "[[], {}, null]",
        "content-type": "application/json",
        "headers": {"task": "t", "id": "i"},
        "properties": {"delivery_tag": 5, "delivery_info": {"exchange": "", "routing_key": "q"}},
    }
    found, problem = envelope.unpack(json.dumps(least).encode())
    assert problem is None
    assert (found.id, found.body, found.routing_key) == ("i", b"[[], {}, null]", "q")
    assert (found.content_encoding, found.priority, found.properties) == ("utf-8", 0, None)


def test_a_body_may_be_plain_text() -> None:
    whole = {"body": "h\u00e9", "properties": {"body_encoding": "utf-8"}}
    assert envelope.unpack(json.dumps(whole).encode())[0].body == "h\u00e9".encode()
    whole = {"body": base64.b64encode(b"x").decode(), "properties": {"body_encoding": "base64"}}
    assert envelope.unpack(json.dumps(whole).encode())[0].body == b"x"


def test_headers_without_a_form_are_refused() -> None:
    for message in (
        Message("i", b"", {"x": {1}}, "q"),
        Message("i", b"", {}, "q", properties={"type": {1}}),
    ):
        with pytest.raises(EncodeError):
            envelope.pack(message, delivery_tag="t")


class TestTimes:
    @examples
    @given(st.floats(0, 4e9))
    def test_they_come_back_to_the_microsecond(self, at: float) -> None:
        assert from_iso(to_iso(at)) == pytest.approx(at, abs=1e-6)

    @pytest.mark.parametrize(
        ("text", "at"),
        [
            ("1970-01-01T00:00:01+00:00", 1.0),
            ("1970-01-01T00:00:01Z", 1.0),
            ("1970-01-01T00:00:01", 1.0),
            ("1970-01-01T02:00:01.5+02:00", 1.5),
            ("1970-01-02", 86400.0),
        ],
    )
    def test_forms(self, text: str, at: float) -> None:
        assert from_iso(text) == at

    def test_form_written(self) -> None:
        assert to_iso(1.5) == "1970-01-01T00:00:01.500000+00:00"
        assert to_iso(1) == "1970-01-01T00:00:01+00:00"

    @pytest.mark.parametrize("text", ["", "soon", 5, None, "2030-13-01", "9999-99-99T00:00"])
    def test_what_is_no_time_is_refused(self, text: Any) -> None:
        with pytest.raises(InvalidTaskError, match="ISO 8601"):
            from_iso(text)

    def test_unreadable_times_count_as_unset(self) -> None:
        assert due({"eta": "soon", "expires": 5}) == (0.0, None)
        assert due({}) == (0.0, None)
