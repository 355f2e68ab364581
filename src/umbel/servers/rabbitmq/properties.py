"""A message's properties as AMQP carries them, and back.

The fields of Message that AMQP has no place for (wall times with fractions, and where a message
went before it was requeued) travel in one header of ours, ``umbel``, a table. Celery's workers
ignore it. The property ``expiration`` is not sent with an expiry of ours: RabbitMQ would drop the
message when its time is over, and its caller would wait for an answer for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from umbel.exceptions import DecodeError
from umbel.message import Message
from umbel.servers.rabbitmq import tables
from umbel.wire.names import BROKER_HEADERS, DELAYED_DIGITS, DELAYED_EXCHANGE, OWN
from umbel.wire.times import due

#: What the table in our header may hold.
_DUE, EXPIRES, _SENT, _EXCHANGE, _KEY, STATE = "due", "expires", "sent", "exchange", "key", "state"
#: It is a copy of one that was delivered before.
AGAIN = "again"

#: Names of the properties in the order of their flags, from bit 15 down, and how each is coded.
_LAYOUT = (
    ("content_type", "s"),
    ("content_encoding", "s"),
    ("headers", "F"),
    ("delivery_mode", "B"),
    ("priority", "B"),
    ("correlation_id", "s"),
    ("reply_to", "s"),
    ("expiration", "s"),
    ("message_id", "s"),
    ("timestamp", "Q"),
    ("type", "s"),
    ("user_id", "s"),
    ("app_id", "s"),
    ("cluster_id", "s"),
)
_FLAGS = tuple((1 << (15 - bit), name, kind) for bit, (name, kind) in enumerate(_LAYOUT))

_PERSISTENT = 2
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Arrived(NamedTuple):
    """What came out of the properties and the body of a delivered message."""

    message: Message
    problem: str | None
    #: It was delivered before, as another message.
    again: bool = False


def pack(message: Message, ours: Mapping[str, Any] = _NOTHING) -> bytes:
    """Return the properties of a message; ``ours`` is added to our header. Raises EncodeError."""
    own = {**_own(message), **ours}
    fields = {
        "content_type": message.content_type or None,
        "content_encoding": message.content_encoding or None,
        "headers": {**message.headers, OWN: own} if own else message.headers,
        "delivery_mode": _PERSISTENT,
        "priority": min(max(message.priority, 0), 255),
        "correlation_id": message.id,
        "reply_to": message.reply_to,
    }
    if message.properties:
        fields.update(message.properties)
        if message.expires_at is not None or message.not_before:
            fields["expiration"] = None
    return pack_fields(fields)


def _own(message: Message) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if message.sent_at:
        own[_SENT] = message.sent_at
    if message.not_before:
        own[_DUE] = message.not_before
    if message.expires_at is not None:
        own[EXPIRES] = message.expires_at
    return own


def moved_from(message: Message) -> dict[str, Any]:
    """Return what our header keeps of a message's own address when it is sent elsewhere."""
    return {_EXCHANGE: message.exchange, _KEY: message.routing_key}


def pack_fields(fields: Mapping[str, Any]) -> bytes:
    """Return AMQP properties; those that are None are left out. Raises EncodeError."""
    flags = 0
    parts = [b""]
    for flag, name, kind in _FLAGS:
        value = fields.get(name)
        if value is None:
            continue
        flags |= flag
        if kind == "s":
            parts.append(tables.short(str(value)))
        elif kind == "F":
            parts.append(tables.encode(value))
        else:
            parts.append(int(value).to_bytes(1 if kind == "B" else 8, "big"))
    parts[0] = flags.to_bytes(2, "big")
    return b"".join(parts)


def unpack_fields(data: bytes) -> dict[str, Any]:
    """Return the properties that are set. Raises DecodeError."""
    fields: dict[str, Any] = {}
    try:
        flags = int.from_bytes(data[:2], "big")
        offset = 2
        for flag, name, kind in _FLAGS:
            if not flags & flag:
                continue
            if kind == "s":
                fields[name], offset = tables.short_at(data, offset)
            elif kind == "F":
                fields[name], offset = tables.decode(data, offset)
            else:
                size = 1 if kind == "B" else 8
                fields[name] = int.from_bytes(data[offset : offset + size], "big")
                offset += size
    except IndexError as error:
        raise DecodeError(f"the message's properties are cut short: {error}") from error
    return fields


def arrive(data: bytes, body: bytes, *, exchange: str, routing_key: str) -> Arrived:
    """Make the message of what was delivered. Never raises: bytes that are none have a problem."""
    try:
        fields = unpack_fields(data)
    except DecodeError as error:
        return Arrived(Message("", body, {}, routing_key, exchange, "", ""), str(error))
    headers = fields.pop("headers", None) or {}
    for name in BROKER_HEADERS.intersection(headers):
        del headers[name]
    own = headers.pop(OWN) if isinstance(headers.get(OWN), dict) else {}
    if exchange == DELAYED_EXCHANGE:
        routing_key = routing_key.split(".", DELAYED_DIGITS)[-1]
    # A sender of Celery's has said it in headers of its own.
    not_before, expires_at = due(headers)
    if fields.get("delivery_mode") == _PERSISTENT:
        del fields["delivery_mode"]
    message = Message(
        fields.pop("correlation_id", ""),
        body,
        headers,
        _text(own, _KEY, routing_key),
        _text(own, _EXCHANGE, exchange),
        fields.pop("content_type", ""),
        fields.pop("content_encoding", ""),
        fields.pop("priority", 0),
        fields.pop("reply_to", ""),
        not_before or _time(own, _DUE) or 0.0,
        _time(own, EXPIRES) if expires_at is None else expires_at,
        _time(own, _SENT) or 0.0,
        fields or None,
    )
    return Arrived(message, None, AGAIN in own)


def _time(own: Mapping[str, Any], name: str) -> float | None:
    value = own.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _text(own: Mapping[str, Any], name: str, otherwise: str) -> str:
    value = own.get(name)
    return value if isinstance(value, str) else otherwise
