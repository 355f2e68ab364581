"""Task messages: from a call to a Message, and from an attempt to the next one.

The hottest code of the project. What is the same in every message of a task is built once, in
TaskEncoder; a call adds its id and its arguments. Headers carry the metadata, the body is
``[args, kwargs, embed]``, where embed holds the follow-ups. Reading is in ``wire.reading``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Message
from umbel.serializers import (
    JSON_TYPE,
    Serializer,
    compress,
    compression_type,
    get,
    json_chunks,
    json_text,
)
from umbel.wire import protocol1
from umbel.wire.names import (
    AMQP_PROPERTIES,
    BROKER_HEADERS,
    COMPRESSION,
    EMPTY_EMBED,
    REDELIVERED,
)
from umbel.wire.reading import decode, peek_id
from umbel.wire.request import Request
from umbel.wire.saferepr import bounded_repr
from umbel.wire.times import to_iso

__all__ = ["Request", "TaskEncoder", "decode", "peek_id", "retry_message"]

#: The end of a body whose call has no follow-ups.
_TAIL = ', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
#: The same after empty keyword arguments.
_EMPTY_TAIL = ", {}" + _TAIL
#: Characters of JSON below which the arguments' plain repr is short too.
_SMALL = 1024
_EMPTY: Mapping[str, Any] = {}

#: Option -> header, where the value is taken as it is.
_HEADER_OF: Mapping[str, str] = {
    "shadow": "shadow",
    "retries": "retries",
    "group_id": "group",
    "group_index": "group_index",
    "ignore_result": "ignore_result",
    "replaced_task_nesting": "replaced_task_nesting",
    "stamped_headers": "stamped_headers",
    "stamps": "stamps",
    "origin": "origin",
}
#: Options that need more than that.
_TIMES = frozenset({"eta", "expires", "not_before", "expires_at"})
_LIMITS = frozenset({"time_limit", "soft_time_limit"})
_FOLLOW_UPS = frozenset({"link", "link_error", "chain", "chord"})
#: Options that change a message's bytes.
_BODY_OPTIONS = _FOLLOW_UPS | {"serializer", "compression"}


class TaskEncoder:
    """Makes the messages of one task; compiled once per task and configuration. Thread-safe."""

    __slots__ = (
        "_compression",
        "_exchange",
        "_headers",
        "_is_plain",
        "_priority",
        "_properties",
        "_protocol",
        "_reprsize",
        "_routing_key",
        "_serializer",
    )

    def __init__(  # noqa: PLR0913 -- what a task's settings say about its messages, all optional
        self,
        task: str,
        *,
        serializer: str = "json",
        compression: str | None = None,
        exchange: str = "",
        routing_key: str = "celery",
        priority: int = 0,
        ignore_result: bool | None = False,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        origin: str = "",
        argsrepr_maxsize: int = 1024,
        protocol: int = 2,
    ) -> None:
        self._serializer = get(serializer)
        self._compression = compression_type(compression) if compression else None
        self._exchange = exchange
        self._routing_key = routing_key
        self._reprsize = argsrepr_maxsize
        self._protocol = protocol
        self._priority = _clamped(priority)
        #: The raw priority travels where it differs.
        self._properties = {"priority": priority} if priority != self._priority else None
        self._headers: dict[str, Any] = {
            "lang": "py",
            "task": task,
            "id": "",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [time_limit, soft_time_limit],
            "root_id": "",
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": origin,
            "ignore_result": ignore_result,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        }
        #: The C encoder makes bodies directly, and they are sent as they are.
        self._is_plain = (
            self._serializer.name == "json" and self._compression is None and protocol == 2
        )

    def encode(  # noqa: PLR0913 -- the ids of a call, each its own
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        id: str,
        sent_at: float,
        reply_to: str = "",
        root_id: str | None = None,
        parent_id: str | None = None,
        group_id: str | None = None,
        group_index: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Message:
        """Return the message of one call.

        ``options`` are those of apply_async, under its names, that the caller has resolved:
        exchange and routing_key instead of a queue, not_before and expires_at beside an eta or
        expires that is to stand in the header as given, stamps and stamped_headers as two values,
        link and link_error as signatures or lists of them, AMQP's properties. Others are ignored.
        Raises EncodeError when the arguments cannot travel.
        """
        headers = self._headers.copy()
        headers["id"] = id
        headers["root_id"] = root_id or id
        headers["parent_id"] = parent_id
        if group_id is not None:
            headers["group"] = group_id
            headers["group_index"] = group_index
        if options is not None or not self._is_plain:
            return self._encode(args, kwargs, headers, options or _EMPTY, sent_at, reply_to)
        try:
            text = "".join(json_chunks(args, 0))
            tail = _EMPTY_TAIL if not kwargs else f", {''.join(json_chunks(kwargs, 0))}{_TAIL}"
        except Exception:  # noqa: BLE001 -- users' `__json__` raises anything; said properly there
            text, tail = json_text(args), f", {json_text(kwargs)}{_TAIL}"
        headers["argsrepr"] = self._shown(args, text)
        if kwargs:
            headers["kwargsrepr"] = self._shown(kwargs, tail)
        return Message(
            id,
            f"[{text}{tail}".encode("ascii"),
            headers,
            self._routing_key,
            self._exchange,
            JSON_TYPE,
            "utf-8",
            self._priority,
            reply_to,
            0.0,
            None,
            sent_at,
            self._properties,
        )

    def _shown(self, value: Any, text: str) -> str:
        """Return the bounded repr of what ``text`` is the JSON of: one short, both are short."""
        if len(text) <= _SMALL:
            try:
                shown = repr(value)
            except Exception:  # noqa: BLE001 -- a user's __repr__
                return bounded_repr(value, self._reprsize)
            if len(shown) <= self._reprsize and shown.isascii():
                return shown
        return bounded_repr(value, self._reprsize)

    def _encode(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        headers: dict[str, Any],
        options: Mapping[str, Any],
        sent_at: float,
        reply_to: str,
    ) -> Message:
        """Return the message of a call with options, or of a task that is not plain json."""
        serializer = self._serializer
        if options.get("serializer"):
            serializer = get(options["serializer"])
        _apply(headers, options)
        body = self._body(args, kwargs, headers, options, serializer)
        compression = options.get("compression") or self._compression
        if compression:
            body, compressed = compress(compression, body)
            headers[COMPRESSION] = compressed
        if options.get("headers"):
            headers.update(options["headers"])
        return self._message(body, headers, options, serializer, sent_at, reply_to)

    def _body(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        headers: dict[str, Any],
        options: Mapping[str, Any],
        serializer: Serializer,
    ) -> bytes:
        embed = _EMPTY if options.keys().isdisjoint(_FOLLOW_UPS) else _embed(options)
        if serializer.name == "json" and self._protocol == 2:
            text, more = json_text(args), json_text(kwargs)
            tail = f", {json_text(embed)}]" if embed else _TAIL
            body = f"[{text}, {more}{tail}".encode("ascii")
            shown = (self._shown(args, text), self._shown(kwargs, more))
        else:
            embed = _plain(embed)
            if self._protocol == 1:
                body = serializer.dumps(protocol1.body(args, kwargs, headers, embed))
            else:
                body = serializer.dumps((args, kwargs, embed or EMPTY_EMBED))
            shown = (bounded_repr(args, self._reprsize), bounded_repr(kwargs, self._reprsize))
        headers["argsrepr"] = options.get("argsrepr") or shown[0]
        headers["kwargsrepr"] = options.get("kwargsrepr") or shown[1]
        return body

    def _message(
        self,
        body: bytes,
        headers: dict[str, Any],
        options: Mapping[str, Any],
        serializer: Serializer,
        sent_at: float,
        reply_to: str,
    ) -> Message:
        find = options.get
        priority = find("priority")
        if priority is None:
            priority = self._priority
            if self._properties is not None:
                priority = self._properties["priority"]
        exchange = find("exchange")
        return Message(
            headers["id"],
            body,
            headers if self._protocol == 2 else dict(find("headers") or _EMPTY),
            find("routing_key") or self._routing_key,
            self._exchange if exchange is None else exchange,
            serializer.content_type,
            serializer.content_encoding,
            _clamped(priority),
            find("reply_to") or reply_to,
            find("not_before") or 0.0,
            find("expires_at"),
            sent_at,
            _properties(options, priority, sent_at),
        )


def _apply(headers: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Write into the headers what the options say."""
    for name, value in options.items():
        if value is not None and name in _HEADER_OF:
            headers[_HEADER_OF[name]] = value
    if not options.keys().isdisjoint(_TIMES):
        headers["eta"] = _iso(options.get("eta"), options.get("not_before"))
        headers["expires"] = _iso(options.get("expires"), options.get("expires_at"))
    if not options.keys().isdisjoint(_LIMITS):
        hard, soft = headers["timelimit"] or (None, None)
        given_hard, given_soft = options.get("time_limit"), options.get("soft_time_limit")
        headers["timelimit"] = [
            hard if given_hard is None else given_hard,
            soft if given_soft is None else given_soft,
        ]


def _iso(given: Any, at: float | None) -> str | None:
    """Return a time header: what the user gave, unchanged, or else the wall time."""
    if given is None:
        return to_iso(at) if at else None
    return given.isoformat() if isinstance(given, datetime) else given


def _embed(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "callbacks": _listed(options.get("link")),
        "errbacks": _listed(options.get("link_error")),
        "chain": options.get("chain"),
        "chord": options.get("chord"),
    }


def _plain(value: Any) -> Any:
    """Return signatures as the plain dicts that serializers other than JSON need."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _listed(signatures: Any) -> list[Any] | None:
    if not signatures:
        return None
    return [signatures] if isinstance(signatures, Mapping) else list(signatures)


def _clamped(priority: int) -> int:
    return 0 if priority < 0 else min(priority, 9)


def _properties(options: Mapping[str, Any], priority: int, sent_at: float) -> dict[str, Any] | None:
    given = AMQP_PROPERTIES & options.keys()
    extra = {name: options[name] for name in given if options[name] is not None}
    if not 0 <= priority <= 9:
        extra["priority"] = priority
    expires_at = options.get("expires_at")
    if expires_at is not None and "expiration" not in extra:
        extra["expiration"] = str(max(round((expires_at - sent_at) * 1000), 0))
    return extra or None


# --- retrying -------------------------------------------------------------------------------


def retry_message(
    message: Message | None,
    request: Request,
    *,
    retries: int,
    not_before: float,
    args: Any = None,
    kwargs: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Message:
    """Return the next attempt: the same id, ``retries``, due at ``not_before``, in its own queue.

    Arguments that are None stay; then the body's bytes are sent again as they are, if there is a
    ``message``. ``options`` are what the retry changes, as in ``TaskEncoder.encode``.
    """
    changes = options or _EMPTY
    sent_at = SYSTEM_CLOCK.now()
    merged = _retry_options(request, message, changes)
    merged.update(retries=retries, not_before=not_before, eta=None)
    same = args is None and kwargs is None and changes.keys().isdisjoint(_BODY_OPTIONS)
    if message is not None and same and "task" in message.headers:
        return _resent(message, request, merged, sent_at)
    serializer = get(message.content_type) if message is not None else get("json")
    encoder = TaskEncoder(request.task, serializer=serializer.name, origin=request.origin or "")
    return encoder.encode(
        tuple(request.args if args is None else args),
        dict(request.kwargs if kwargs is None else kwargs),
        id=request.id,
        sent_at=sent_at,
        reply_to=request.reply_to,
        root_id=request.root_id,
        parent_id=request.id,
        options=merged,
    )


def _resent(
    message: Message, request: Request, options: Mapping[str, Any], sent_at: float
) -> Message:
    headers = {k: v for k, v in message.headers.items() if k not in BROKER_HEADERS}
    headers.pop(REDELIVERED, None)
    headers["parent_id"] = request.id
    headers.setdefault("timelimit", None)
    _apply(headers, options)
    headers.update(options.get("headers") or _EMPTY)
    for name in ("argsrepr", "kwargsrepr"):
        headers[name] = options.get(name) or headers.get(name)
    priority = options["priority"]
    return Message(
        request.id,
        message.body,
        headers,
        options["routing_key"],
        options["exchange"],
        message.content_type,
        message.content_encoding,
        _clamped(priority),
        message.reply_to,
        options["not_before"],
        options["expires_at"],
        sent_at,
        _properties(options, priority, sent_at),
    )


def _retry_options(
    request: Request, message: Message | None, changes: Mapping[str, Any]
) -> dict[str, Any]:
    info = request.delivery_info or {}
    hard, soft = request.timelimit
    properties = request.properties or _EMPTY
    return {
        **{name: properties[name] for name in AMQP_PROPERTIES & properties.keys()},
        "expiration": None,
        "exchange": info.get("exchange", ""),
        "routing_key": info.get("routing_key"),
        "priority": info.get("priority", 0),
        "compression": message.headers.get(COMPRESSION) if message is not None else None,
        "shadow": request.shadow,
        "group_id": request.group,
        "group_index": request.group_index,
        "time_limit": hard,
        "soft_time_limit": soft,
        "ignore_result": request.ignore_result,
        "link": request.callbacks,
        "link_error": request.errbacks,
        "chain": request.chain,
        "chord": request.chord,
        "stamps": request.stamps,
        "stamped_headers": request.stamped_headers,
        "replaced_task_nesting": request.replaced_task_nesting,
        "expires": None if "expires_at" in changes else request.expires,
        "expires_at": request.expires_at,
        "origin": request.origin,
        **changes,
        "headers": {**(request.headers or _EMPTY), **(changes.get("headers") or _EMPTY)},
    }
