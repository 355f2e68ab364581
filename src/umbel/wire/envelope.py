"""The Redis envelope: a whole message as one JSON text, in kombu's layout."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from umbel.exceptions import DecodeError, EncodeError
from umbel.message import Message
from umbel.serializers import json_chunks, json_loads, json_string, json_text
from umbel.wire.times import due

_b64 = binascii.b2a_base64
#: Properties that have fields of their own in Message, or exist in the envelope only.
_OWN = frozenset({"reply_to", "delivery_info", "body_encoding", "delivery_tag"})


def pack(message: Message, *, delivery_tag: str) -> bytes:
    """Return the envelope. Raises EncodeError when a header or property has no form in JSON."""
    try:
        headers = "".join(json_chunks(message.headers, 0))
    except Exception as error:
        raise EncodeError(f"the headers have no form in JSON: {error}") from error
    properties = _RAW if message.properties is None else message.properties
    body = _b64(message.body, newline=False).decode("ascii")
    return (
        f'{{"body": "{body}", "content-encoding": {json_string(message.content_encoding)}, '
        f'"content-type": {json_string(message.content_type)}, "headers": {headers}, '
        f'"properties": {_properties(message, properties, delivery_tag)}}}'
    ).encode("ascii")


_RAW: Mapping[str, Any] = {}


def _properties(message: Message, extra: Mapping[str, Any], delivery_tag: str) -> str:
    return json_text(
        {
            "correlation_id": message.id,
            "reply_to": message.reply_to,
            "delivery_mode": 2,
            "priority": message.priority,
            **extra,
            "delivery_info": {
                "exchange": message.exchange,
                "routing_key": message.routing_key,
            },
            "body_encoding": "base64",
            "delivery_tag": delivery_tag,
        }
    )


def unpack(data: bytes) -> tuple[Message, str | None]:
    """Return the message of an envelope and what is wrong with it; None = nothing.

    Never raises. With a problem, the message's body is the raw data.
    """
    try:
        envelope = json_loads(data)
        return _message(envelope), None
    except (DecodeError, _ProblemError) as error:
        return Message(id="", body=data, headers={}, routing_key="", content_type=""), str(error)


class _ProblemError(Exception):
    """The envelope is not one."""


def _message(envelope: Any) -> Message:
    if not isinstance(envelope, dict):
        raise _ProblemError(f"expected an envelope, got {type(envelope).__name__}")
    headers = _part(envelope, "headers")
    properties = _part(envelope, "properties")
    info = _part(properties, "delivery_info")
    body = _body(envelope.get("body"), properties.get("body_encoding"))
    not_before, expires_at = due(headers)
    extra = {name: value for name, value in properties.items() if name not in _OWN}
    task_id = headers.get("id") or properties.get("correlation_id")
    priority = extra.pop("priority", 0)
    if type(priority) is not int:
        priority = 0
    clamped = min(max(priority, 0), 9)
    if clamped != priority:
        extra["priority"] = priority
    if extra.get("correlation_id") == task_id:
        extra.pop("correlation_id", None)
    if extra.get("delivery_mode") == 2:
        del extra["delivery_mode"]
    return Message(
        _text(task_id),
        body,
        headers,
        _text(info.get("routing_key")),
        _text(info.get("exchange")),
        _text(envelope.get("content-type")),
        _text(envelope.get("content-encoding")) or "utf-8",
        clamped,
        _text(properties.get("reply_to")),
        not_before,
        expires_at,
        0.0,
        extra or None,
    )


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    part = whole.get(name)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise _ProblemError(f"{name}: expected an object, got {type(part).__name__}")
    return part


def _body(body: Any, encoding: Any) -> bytes:
    if not isinstance(body, str):
        raise _ProblemError(f"body: expected a text, got {type(body).__name__}")
    if encoding != "base64":
        return body.encode("utf-8", "surrogatepass")
    try:
        return binascii.a2b_base64(body)
    except ValueError as error:
        raise _ProblemError(f"body: not base64: {error}") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
