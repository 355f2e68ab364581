"""A message as two columns: ``data``, a JSON array of all but the body, and the body as it is.

JSON goes through the standard library's C encoder: headers hold users' values, which faster codecs
change. Text is pure ASCII, so that surrogates and whatever else a header may hold survive SQLite.
"""

from __future__ import annotations

import json
from typing import Any

from umbel.message import Message

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def pack(message: Message) -> str:
    """Return the ``data`` of a message. Raises TypeError, ValueError, RecursionError."""
    properties = message.properties
    return _encode(
        [
            message.id,
            message.headers,
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
        ]
    )


def unpack(data: str, body: bytes) -> Message:
    """Return the message. Raises ValueError and the like when the data is none of ours."""
    fields: list[Any] = _decode(data)
    task_id, headers, *rest = fields
    return Message(task_id, body, headers, *rest)


def unpack_any(data: str, body: bytes) -> tuple[Message, str | None]:
    """Return the message and None, or a message of raw bytes and why it is none."""
    try:
        return unpack(data, body), None
    except (TypeError, ValueError, RecursionError) as error:
        return Message("", body, {}, ""), f"its row is damaged: {error}"


#: What ``pack`` raises for headers that are no JSON.
PACKING_ERRORS = (TypeError, ValueError, RecursionError)
