"""AMQP tables and properties: against Celery's library, and against whatever anybody may send."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from amqp.basic_message import Message as CelerysMessage
from amqp.serialization import dumps as celerys_encode
from amqp.serialization import loads as celerys_decode
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.exceptions import DecodeError, EncodeError
from umbel.message import Message
from umbel.servers.rabbitmq import properties, tables

VALUES = {
    "null": None,
    "yes": True,
    "no": False,
    "int": 5,
    "negative": -7,
    "long": 2**40,
    "longest": -(2**63),
    "float": 0.5,
    "text": "Grüße",
    "list": [1, [None, "x"], {"a": [True]}],
    "table": {"inner": {"deep": 1.25}},
    "decimal": Decimal("1.50"),
    "time": datetime(2026, 11, 22, 7, 24, 4, tzinfo=UTC),
}

text = st.text(st.characters(codec="utf-8"), max_size=40)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
    max_leaves=10,
)
headers = st.dictionaries(text, plain, max_size=10)
few = settings(max_examples=60)


def test_tables_are_read_by_celerys_library() -> None:
    ((read,), _) = celerys_decode("F", tables.encode(VALUES), 0)
    assert read["time"].replace(tzinfo=UTC) == VALUES["time"]
    assert {**read, "time": VALUES["time"]} == VALUES


def test_tables_of_celerys_library_are_read() -> None:
    written = celerys_encode("F", [VALUES])
    assert tables.decode(written) == (VALUES, len(written))


@few
@given(headers)
def test_what_is_written_is_read(table: dict[str, Any]) -> None:
    written = tables.encode(table)
    assert tables.decode(written) == (table, len(written))


@few
@given(st.binary())
def test_any_bytes_are_a_table_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        tables.decode(data)


@few
@given(st.binary(), st.binary())
def test_any_bytes_arrive_as_a_message_or_with_a_problem(data: bytes, body: bytes) -> None:
    message, problem, _ = properties.arrive(data, body, exchange="x", routing_key="k")
    assert message.body == body
    assert (problem is None) or (message.id == "" and message.headers == {})


def test_tables_inside_each_other_are_refused_before_the_stack_ends() -> None:
    data = b""
    for _ in range(5000):
        data = b"\x01aF" + struct.pack(">I", len(data)) + data
    with pytest.raises(DecodeError):
        tables.decode(struct.pack(">I", len(data)) + data)


@pytest.mark.parametrize("value", [2**64, object(), {"x": object()}, Decimal("NaN"), 10**40])
def test_what_amqp_cannot_carry_is_an_encode_error(value: Any) -> None:
    with pytest.raises(EncodeError):
        tables.encode({"header": value})


def test_names_that_are_too_long_are_an_encode_error() -> None:
    with pytest.raises(EncodeError, match="255"):
        tables.encode({"x" * 256: 1})


MESSAGE = Message(
    "task-1",
    b"[[], {}, {}]",
    {"id": "task-1", "timelimit": [None, 0.5]},
    "celery",
    priority=3,
    reply_to="me",
    not_before=1_800_000_000.25,
    expires_at=1_800_000_100.5,
    sent_at=1_799_999_999.125,
    properties={"message_id": "m", "timestamp": 1_700_000_000, "delivery_mode": 1},
)


def test_a_message_arrives_as_it_was_sent() -> None:
    arrived = properties.arrive(
        properties.pack(MESSAGE), MESSAGE.body, exchange="", routing_key="celery"
    )
    assert arrived == (MESSAGE, None, False)


def test_a_copy_elsewhere_remembers_where_it_was_sent() -> None:
    data = properties.pack(MESSAGE, properties.moved_from(MESSAGE))
    message, _, _ = properties.arrive(data, MESSAGE.body, exchange="", routing_key="umbel.dead")
    assert (message.exchange, message.routing_key) == ("", "celery")


def test_celerys_library_reads_our_properties() -> None:
    read = CelerysMessage()
    read._load_properties(60, properties.pack(MESSAGE), 0)
    assert read.properties["correlation_id"] == "task-1"
    assert read.properties["application_headers"]["timelimit"] == [None, 0.5]
    assert read.properties["priority"] == 3
    assert read.properties["delivery_mode"] == 1
    assert "expiration" not in read.properties


def test_an_expiry_is_not_left_to_the_server_which_would_drop_the_message() -> None:
    message = Message("t", b"", {}, "q", expires_at=5.0, properties={"expiration": "1000"})
    assert "expiration" not in properties.unpack_fields(properties.pack(message))
    message = Message("t", b"", {}, "q", properties={"expiration": "1000"})
    assert properties.unpack_fields(properties.pack(message))["expiration"] == "1000"


def test_due_times_of_celerys_messages_are_known() -> None:
    sent = Message("t", b"", {"eta": "2030-01-01T00:00:00+00:00"}, "q")
    message, _, _ = properties.arrive(properties.pack(sent), b"", exchange="", routing_key="q")
    assert message.not_before == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
