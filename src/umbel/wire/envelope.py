"""The Redis envelope: a whole message as one JSON text, in kombu's layout."""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from typing import Any

from umbel.exceptions import DecodeError
from umbel.message import Message
from umbel.serializers import json_chunks, json_loads, json_string, json_text
from umbel.wire.names import AMQP_PROPERTIES, OWN, REDELIVERED, is_clean
from umbel.wire.times import due


def pack(message: Message, *, delivery_tag: str) -> bytes:
    """Return the envelope. Raises EncodeError when a header or property has no form in JSON."""
    try:
        headers = "".join(json_chunks(message.headers, 0))
    except Exception:  # noqa: BLE001 -- said properly there
        headers = json_text(message.headers)
    if message.properties is None:
        more, task_id = '"delivery_mode": 2', json_string(message.id)
        priority = str(message.priority)
    else:
        more, task_id, priority = _extra(message)
    body = b2a_base64(message.body, newline=False).decode("ascii")
    own = "null" if message.expires_at is None else repr(message.expires_at)
    if message.not_before:
        own = f"{own}, {message.not_before!r}"
    return (
        f'{{"body": "{body}", '
        f'"content-encoding": {json_string(message.content_encoding)}, '
        f'"content-type": {json_string(message.content_type)}, "headers": {headers}, '
        f'"properties": {{"correlation_id": {task_id}, '
        f'"reply_to": {json_string(message.reply_to)}, {more}, '
        f'"delivery_info": {{"exchange": {json_string(message.exchange)}, '
        f'"routing_key": {json_string(message.routing_key)}}}, "priority": {priority}, '
        f'"body_encoding": "base64", "delivery_tag": {json_string(delivery_tag)}, '
        f'"{OWN}": [{message.sent_at!r}, {own}]}}}}'
    ).encode("ascii")


def _extra(message: Message) -> tuple[str, str, str]:
    """Return further properties, the correlation id and the raw priority, all as JSON."""
    extra = {"delivery_mode": 2, **(message.properties or {})}
    task_id = extra.pop("correlation_id", message.id)
    priority = extra.pop("priority", message.priority)
    return json_text(extra)[1:-1], json_text(task_id), json_text(priority)


def unpack(data: bytes) -> tuple[Message, str | None]:
    """Return the message of an envelope and what is wrong with it; None = nothing.

    Never raises. With a problem, the message's body is the raw data.
    """
    try:
        return _message(json_loads(data)), None
    except (DecodeError, _ProblemError) as error:
        return Message("", data, {}, "", content_type=""), str(error)


def unacked(noted: bytes) -> tuple[str, str, int, bytes]:
    """Return exchange, key, priority and envelope of what a worker of Celery's noted it holds.

    The envelope says that it is delivered again. Never raises; an empty one means that this is no
    message.
    """
    try:
        # Not our own codec: what it does not know must come out as it went in.
        envelope, exchange, routing_key = json.loads(noted)
        properties = envelope["properties"]
        for part in (envelope["headers"], properties["delivery_info"]):
            part[REDELIVERED] = True
        priority = properties.get("priority")
        return (
            _text(exchange),
            _text(routing_key),
            priority if type(priority) is int else 0,
            json.dumps(envelope).encode(),
        )
    except (TypeError, ValueError, LookupError, RecursionError):
        return "", "", 0, b""


#: How many properties a message has that sets none itself: Celery's, and ours.
_USUAL = (7, 8)


class _ProblemError(Exception):
    """The envelope is not one."""


def _message(envelope: Any) -> Message:
    if not isinstance(envelope, dict):
        raise _ProblemError(f"expected an envelope, got {type(envelope).__name__}")
    headers = _part(envelope, "headers")
    properties = _part(envelope, "properties")
    info = _part(properties, "delivery_info")
    find = properties.get
    body = envelope.get("body")
    correlation_id, priority = find("correlation_id"), find("priority")
    texts: Any = (
        headers.get("id") or correlation_id,
        info.get("routing_key"),
        info.get("exchange"),
        envelope.get("content-type"),
        envelope.get("content-encoding"),
        find("reply_to"),
    )
    try:
        usable = "".join(texts).isprintable()
    except TypeError:
        usable = False
    if not usable:
        texts = map(_text, texts)
    task_id, routing_key, exchange, content_type, content_encoding, reply_to = texts
    sent_at, expires_at, not_before = _own(find(OWN))
    if headers.get("eta") is not None or headers.get("expires") is not None:
        begins, ends = due(headers)
        not_before = not_before or begins
        expires_at = ends if expires_at is None else expires_at
    if type(priority) is not int:
        priority = 0
    usual = (
        len(properties) in _USUAL
        and correlation_id == task_id
        and 0 <= priority <= 9
        and find("delivery_mode") == 2
    )
    return Message(
        task_id,
        _body(body, find("body_encoding")),
        headers,
        routing_key,
        exchange,
        content_type,
        content_encoding or "utf-8",
        0 if priority < 0 else min(priority, 9),
        reply_to,
        not_before,
        expires_at,
        sent_at,
        None if usual else _further(properties, task_id),
    )


def _own(told: Any) -> tuple[float, float | None, float]:
    """Return when it was sent, expires and may run, as far as an umbel that sent it says so."""
    match told:
        case [int() | float() as sent_at, int() | float() | None as expires_at]:
            return float(sent_at), expires_at, 0.0
        case [
            int() | float() as sent_at,
            int() | float() | None as expires_at,
            int() | float() as not_before,
        ]:
            return float(sent_at), expires_at, float(not_before)
        case _:
            return 0.0, None, 0.0


def _further(properties: dict[str, Any], task_id: Any) -> dict[str, Any] | None:
    """Return the properties that have no field in Message."""
    extra = {name: properties[name] for name in AMQP_PROPERTIES & properties.keys()}
    if extra.get("correlation_id") == task_id:
        extra.pop("correlation_id", None)
    if extra.get("delivery_mode") == 2:
        del extra["delivery_mode"]
    priority = properties.get("priority")
    if type(priority) is int and not 0 <= priority <= 9:
        extra["priority"] = priority
    return extra or None


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    part = whole.get(name)
    if type(part) is dict:
        return part
    if part is None:
        return {}
    raise _ProblemError(f"{name}: expected an object, got {type(part).__name__}")


def _body(body: Any, encoding: Any) -> bytes:
    if not isinstance(body, str):
        raise _ProblemError(f"body: expected a text, got {type(body).__name__}")
    if encoding != "base64":
        return body.encode("utf-8", "surrogatepass")
    try:
        return a2b_base64(body)
    except ValueError as error:
        raise _ProblemError(f"body: not base64: {error}") from error


def _text(value: Any) -> str:
    """Return a text that servers can use as a name; "" for anything else."""
    return value if is_clean(value) else ""
