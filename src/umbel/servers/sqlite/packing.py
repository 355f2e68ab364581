"""A message as two columns: ``data``, a JSON array of all but the body, and the body as it is.

The headers of a task have the same names in the same order in almost every message: then only their
values are written. That halves the row, and with it what is written at publishing, at the end (a
page that becomes free is written once more) and at a checkpoint; and reading it takes half as long.

JSON goes through the standard library's C encoder: headers hold users' values, which faster codecs
change. Its text is pure ASCII, so that whatever a header holds survives SQLite.
"""

from __future__ import annotations

from collections.abc import Callable
from json import JSONDecoder
from typing import Any

from umbel.exceptions import SerializationError
from umbel.message import Message
from umbel.serializers import json_chunks, json_loads
from umbel.wire.names import HEADER_ORDER

#: What headers that are no JSON make ``pack`` raise. Not every Exception: a soft time limit that
#: strikes here is none of them.
PACKING_ERRORS = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
#: What a row's ``data`` that is not ours makes ``unpack`` raise.
UNPACKING_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RecursionError,
    StopIteration,
)

#: (text, start) -> value and where it ends: what ``JSONDecoder.decode`` calls, without two frames.
_scan: Callable[[str, int], tuple[Any, int]] = vars(JSONDecoder())["scan_once"]


def pack(message: Message) -> str:
    """Return the ``data`` of a message. Raises one of PACKING_ERRORS if its headers are no JSON."""
    properties, headers = message.properties, message.headers
    return "".join(
        json_chunks(
            [
                message.id,
                [*headers.values()] if tuple(headers) == HEADER_ORDER else headers,
                message.routing_key,
                message.exchange,
                message.content_type,
                message.content_encoding,
                message.priority,
                message.reply_to,
                message.not_before,
                message.expires_at,
                message.sent_at,
                None if properties is None else dict(properties),
            ],
            0,
        )
    )


def unpack(data: str, body: bytes) -> tuple[Message, str | None]:
    """Return the message and None, or a message of raw bytes and why it is none."""
    try:
        # Headers may hold values of registered types, which travel tagged: rare, so looked for.
        (
            task_id,
            headers,
            routing_key,
            exchange,
            content_type,
            content_encoding,
            priority,
            reply_to,
            not_before,
            expires_at,
            sent_at,
            properties,
        ) = _tagged(data) if '"__type__"' in data else _scan(data, 0)[0]
        headers = (
            dict(zip(HEADER_ORDER, headers, strict=True)) if type(headers) is list else headers
        )
        if type(headers) is not dict or type(body) is not bytes:
            raise TypeError("its headers are no table, or its body no bytes")
        # A glance, in C: these raise for any other type than the fields have.
        texts = task_id, routing_key, exchange, content_type, content_encoding, reply_to
        _ = "".join(texts), 0.0 + not_before + sent_at + (expires_at or 0.0) + priority
        if properties is not None:
            properties.keys()
    except UNPACKING_ERRORS as error:
        raw = body if type(body) is bytes else str(body).encode(errors="replace")
        return Message("", raw, {}, ""), f"its row is damaged: {type(error).__name__}: {error}"
    # One by one, not "*fields": it is the hottest call of a receive.
    return Message(
        task_id,
        body,
        headers,
        routing_key,
        exchange,
        content_type,
        content_encoding,
        priority,
        reply_to,
        not_before,
        expires_at,
        sent_at,
        properties,
    ), None


def _tagged(data: str) -> Any:
    try:
        return json_loads(data.encode())
    except SerializationError:  # a tag that nobody registered here: then the table as it is
        return _scan(data, 0)[0]


def storable(text: str) -> str:
    """Return what a column may hold: half characters, which no encoding has, written as escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()
