"""Task messages, protocols 2 and 1: from a call to a Message, from a Message to a Request.

The hottest code of the project. What is the same in every message of a task is built once, in
TaskEncoder; a call adds its id and its arguments. Reading trusts nothing: whatever headers and body
hold, ``decode`` returns a Request or raises InvalidTaskError, DecodeError or ContentDisallowed.

Layout: headers carry the metadata, the body is ``[args, kwargs, embed]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from umbel.exceptions import InvalidTaskError
from umbel.message import Message
from umbel.serializers import (
    JSON_TYPE,
    Serializer,
    compress,
    compression_type,
    decompress,
    for_content_type,
    get,
    json_chunks,
    json_loads,
    json_text,
)
from umbel.wire.names import (
    AMQP_PROPERTIES,
    BROKER_HEADERS,
    COMPRESSION,
    EMPTY_EMBED,
    KNOWN_HEADERS,
    REDELIVERED,
)
from umbel.wire.request import Request
from umbel.wire.saferepr import bounded_repr
from umbel.wire.times import from_iso, to_iso

__all__ = ["Request", "TaskEncoder", "decode", "peek_id", "retry_message"]

#: The end of a body whose call has no follow-ups.
_TAIL = ', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
#: The same after empty keyword arguments.
_EMPTY_TAIL = ", {}" + _TAIL
#: Characters of JSON below which the arguments' plain repr is short too.
_SMALL = 1024
_EMPTY: Mapping[str, Any] = {}

#: Option -> header, where the value is taken as it is.
_PLAIN_OPTIONS = (
    ("shadow", "shadow"),
    ("retries", "retries"),
    ("group_id", "group"),
    ("group_index", "group_index"),
    ("ignore_result", "ignore_result"),
    ("replaced_task_nesting", "replaced_task_nesting"),
    ("argsrepr", "argsrepr"),
    ("kwargsrepr", "kwargsrepr"),
    ("stamped_headers", "stamped_headers"),
    ("stamps", "stamps"),
)


class TaskEncoder:
    """Makes the messages of one task; compiled once per task and configuration. Thread-safe."""

    __slots__ = (
        "_compression",
        "_exchange",
        "_headers",
        "_plain",
        "_priority",
        "_properties",
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
    ) -> None:
        self._serializer = get(serializer)
        self._compression = compression_type(compression) if compression else None
        self._exchange = exchange
        self._routing_key = routing_key
        self._reprsize = argsrepr_maxsize
        self._priority = _clamped(priority)
        #: The raw priority is kept where it differs.
        self._properties = {"priority": priority} if priority != self._priority else None
        #: Everything but the three or four headers of a plain call.
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
        #: Bodies are made by the C encoder directly, and sent as they are.
        self._plain = self._serializer.name == "json" and self._compression is None

    def encode(  # noqa: PLR0913 -- the ids of a call, each its own
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        id: str,  # noqa: A002 -- the header's name
        sent_at: float,
        reply_to: str = "",
        root_id: str | None = None,
        parent_id: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Message:
        """Return the message of one call.

        ``options`` are those of apply_async that the caller has resolved; see ``_encode_options``.
        Raises EncodeError when the arguments cannot travel.
        """
        if options is not None or not self._plain:
            call = _Call(args, kwargs, id, sent_at, reply_to, root_id, parent_id)
            return self._encode_options(call, options or _EMPTY)
        headers = self._headers.copy()
        headers["id"] = id
        headers["root_id"] = root_id or id
        headers["parent_id"] = parent_id
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
        """Return the bounded repr of what ``text`` is the JSON of: if one is short, so is the other."""
        if len(text) <= _SMALL:
            try:
                shown = repr(value)
            except Exception:  # noqa: BLE001, S110 -- a user's __repr__; the slow way survives it
                pass
            else:
                if len(shown) <= self._reprsize and shown.isascii():
                    return shown
        return bounded_repr(value, self._reprsize)

    def _encode_options(self, call: _Call, options: Mapping[str, Any]) -> Message:
        """Return the message of a call with options, or of a task that is not plain json."""
        serializer = get(options["serializer"]) if options.get("serializer") else self._serializer
        headers = self._option_headers(call, options)
        body = serializer.dumps(_body(call, options))
        compression = options.get("compression", self._compression)
        if compression:
            body, headers[COMPRESSION] = compress(compression, body)
        if options.get("headers"):
            headers.update(options["headers"])
        priority = options.get("priority")
        if priority is None:
            priority = (self._properties or _EMPTY).get("priority", self._priority)
        return Message(
            call.id,
            body,
            headers,
            options.get("routing_key") or self._routing_key,
            self._exchange if options.get("exchange") is None else options["exchange"],
            serializer.content_type,
            serializer.content_encoding,
            _clamped(priority),
            options.get("reply_to") or call.reply_to,
            options.get("not_before") or 0.0,
            options.get("expires_at"),
            call.sent_at,
            _properties(call, options, priority),
        )

    def _option_headers(self, call: _Call, options: Mapping[str, Any]) -> dict[str, Any]:
        headers = self._headers.copy()
        headers["id"] = call.id
        headers["root_id"] = call.root_id or call.id
        headers["parent_id"] = call.parent_id
        headers["timelimit"] = list(headers["timelimit"])
        headers["stamps"] = {}
        headers["eta"] = _iso(options.get("eta"), options.get("not_before"))
        headers["expires"] = _iso(options.get("expires"), options.get("expires_at"))
        for index, name in enumerate(("time_limit", "soft_time_limit")):
            if options.get(name) is not None:
                headers["timelimit"][index] = options[name]
        for name, header in _PLAIN_OPTIONS:
            if options.get(name) is not None:
                headers[header] = options[name]
        if options.get("argsrepr") is None:
            headers["argsrepr"] = bounded_repr(call.args, self._reprsize)
        if options.get("kwargsrepr") is None:
            headers["kwargsrepr"] = bounded_repr(call.kwargs, self._reprsize)
        return headers


class _Call:
    """The arguments of ``TaskEncoder.encode``, handed on."""

    __slots__ = ("args", "id", "kwargs", "parent_id", "reply_to", "root_id", "sent_at")

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        id: str,  # noqa: A002 -- the header's name
        sent_at: float,
        reply_to: str,
        root_id: str | None,
        parent_id: str | None,
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.id = id
        self.sent_at = sent_at
        self.reply_to = reply_to
        self.root_id = root_id
        self.parent_id = parent_id


def _clamped(priority: int) -> int:
    return min(max(priority, 0), 9)


def _body(call: _Call, options: Mapping[str, Any]) -> tuple[Any, ...]:
    embed = {
        "callbacks": _listed(options.get("link")),
        "errbacks": _listed(options.get("link_error")),
        "chain": options.get("chain"),
        "chord": options.get("chord"),
    }
    return (call.args, call.kwargs, embed)


def _listed(signatures: Any) -> list[Any] | None:
    if not signatures:
        return None
    return [signatures] if isinstance(signatures, Mapping) else list(signatures)


def _iso(given: Any, at: float | None) -> str | None:
    """Return a time header: what the user gave, unchanged, or else the wall time."""
    if given is None:
        return to_iso(at) if at else None
    return given.isoformat() if isinstance(given, datetime) else given


def _properties(call: _Call, options: Mapping[str, Any], priority: int) -> dict[str, Any] | None:
    extra = {name: options[name] for name in AMQP_PROPERTIES if options.get(name) is not None}
    if priority != _clamped(priority):
        extra["priority"] = priority
    expires_at = options.get("expires_at")
    if expires_at is not None and "expiration" not in extra:
        extra["expiration"] = str(max(int((expires_at - call.sent_at) * 1000), 0))
    return extra or None


# --- reading --------------------------------------------------------------------------------


def decode(message: Message, accept: frozenset[str]) -> Request:
    """Return what the message asks for.

    Raises ContentDisallowed when its content type is not in ``accept``, DecodeError when its bytes
    are not what the type says, InvalidTaskError when they are no task message of protocol 2 or 1.
    """
    headers = message.headers
    if not isinstance(headers, dict):
        raise InvalidTaskError(f"expected headers as an object, got {type(headers).__name__}")
    body = _load(message, headers, accept)
    if "task" in headers:
        request = _from_headers(headers)
    else:
        headers, body = _from_protocol_1(message, body)
        request = _from_headers(headers)
        request.utc = headers["utc"] is not False
    _set_body(request, body)
    _set_times(request)
    _set_delivery(request, message)
    return request


def peek_id(message: Message) -> str:
    """Return the task's id, even of a message that cannot be decoded; "" if it has none."""
    if isinstance(message.headers, dict):
        task_id = message.headers.get("id")
        if isinstance(task_id, str) and task_id:
            return task_id
    return message.id if isinstance(message.id, str) else ""


def _load(message: Message, headers: dict[str, Any], accept: frozenset[str]) -> Any:
    data = message.body
    if headers.get(COMPRESSION):
        data = decompress(str(headers[COMPRESSION]), data)
    if message.content_type == JSON_TYPE and JSON_TYPE in accept:
        return json_loads(data)
    return for_content_type(message.content_type, accept).loads(data)


def _from_headers(headers: dict[str, Any]) -> Request:
    find = headers.get
    request = Request.__new__(Request)
    request.task = _text(headers, "task")
    request.id = _text(headers, "id")
    request.lang = find("lang")
    request.shadow = _text_or_none(headers, "shadow")
    request.eta = _text_or_none(headers, "eta")
    request.expires = _text_or_none(headers, "expires")
    request.group = _text_or_none(headers, "group")
    request.group_index = _number(headers, "group_index", None)
    request.retries = _number(headers, "retries", 0) or 0
    request.timelimit = _limits(find("timelimit"))
    request.root_id = _text_or_none(headers, "root_id") or request.id
    request.parent_id = _text_or_none(headers, "parent_id")
    request.argsrepr = _text_or_none(headers, "argsrepr")
    request.kwargsrepr = _text_or_none(headers, "kwargsrepr")
    request.origin = _text_or_none(headers, "origin")
    request.ignore_result = _flag(find("ignore_result"))
    request.replaced_task_nesting = _number(headers, "replaced_task_nesting", 0) or 0
    request.stamped_headers = _stamp_names(find("stamped_headers"))
    request.stamps = _stamps(find("stamps"))
    request.headers = {k: v for k, v in headers.items() if k not in KNOWN_HEADERS} or None
    request.utc = True
    request.hostname = None
    request.is_eager = False
    request.called_directly = False
    request.children = []
    request.logfile = None
    request.loglevel = None
    request.delivery_tag = None
    return request


def _text(headers: dict[str, Any], name: str) -> str:
    value = headers.get(name)
    if isinstance(value, str) and value:
        return value
    raise InvalidTaskError(f"header {name!r}: expected a text, got {value!r:.80}")


def _text_or_none(headers: dict[str, Any], name: str) -> str | None:
    value = headers.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidTaskError(f"header {name!r}: expected a text or null, got {value!r:.80}")


def _number(headers: dict[str, Any], name: str, default: int | None) -> int | None:
    value = headers.get(name, default)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidTaskError(f"header {name!r}: expected an integer, got {value!r:.80}")


def _flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise InvalidTaskError(f"header 'ignore_result': expected true or false, got {value!r:.80}")


def _limits(value: Any) -> tuple[float | None, float | None]:
    if value is None:
        return (None, None)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        hard, soft = value
        if all(limit is None or type(limit) in (int, float) for limit in (hard, soft)):
            return (hard, soft)
    raise InvalidTaskError(f"header 'timelimit': expected [hard, soft], got {value!r:.80}")


def _stamp_names(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple, set)) and all(isinstance(name, str) for name in value):
        return list(value)
    raise InvalidTaskError(f"header 'stamped_headers': expected names, got {value!r:.80}")


def _stamps(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise InvalidTaskError(f"header 'stamps': expected an object, got {value!r:.80}")


def _from_protocol_1(message: Message, body: Any) -> tuple[dict[str, Any], Any]:
    """Return headers and body as protocol 2 would have them."""
    if not isinstance(body, dict) or "task" not in body or "id" not in body:
        raise InvalidTaskError("no task message: neither header 'task' nor a body of protocol 1")
    headers = {**message.headers, **{k: v for k, v in body.items() if k in KNOWN_HEADERS}}
    if "taskset" in body:
        headers["group"] = body["taskset"]
    headers["utc"] = body.get("utc", True)
    args, kwargs = body.get("args", []), body.get("kwargs", {})
    embed = {name: body.get(name) for name in ("callbacks", "errbacks", "chord")}
    return headers, [args, kwargs, embed]


def _set_body(request: Request, body: Any) -> None:
    if not isinstance(body, (list, tuple)) or len(body) != 3:
        raise InvalidTaskError(f"expected a body [args, kwargs, embed], got {body!r:.80}")
    args, kwargs, embed = body
    if not isinstance(args, (list, tuple)):
        raise InvalidTaskError(f"expected positional arguments in a list, got {args!r:.80}")
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
        raise InvalidTaskError(f"expected keyword arguments in an object, got {kwargs!r:.80}")
    request.args = list(args)
    request.kwargs = kwargs
    if embed is None or embed == EMPTY_EMBED:
        request.callbacks = request.errbacks = request.chain = request.chord = None
    elif isinstance(embed, dict):
        request.callbacks = _signatures(embed, "callbacks")
        request.errbacks = _signatures(embed, "errbacks")
        request.chain = _signatures(embed, "chain")
        request.chord = _signature(embed.get("chord"), "chord")
    else:
        raise InvalidTaskError(f"expected follow-ups in an object, got {embed!r:.80}")


def _signatures(embed: dict[str, Any], name: str) -> list[Any] | None:
    value = embed.get(name)
    if value is None:
        return None
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, (list, tuple)):
        raise InvalidTaskError(f"{name}: expected a list of signatures, got {value!r:.80}")
    return [_signature(item, name) for item in listed]


def _signature(value: Any, name: str) -> Any:
    if value is None or (isinstance(value, dict) and isinstance(value.get("task"), str)):
        return value
    raise InvalidTaskError(f"{name}: expected a signature, got {value!r:.80}")


def _set_times(request: Request) -> None:
    request.not_before = from_iso(request.eta, utc=request.utc) if request.eta else 0.0
    request.expires_at = from_iso(request.expires, utc=request.utc) if request.expires else None


def _set_delivery(request: Request, message: Message) -> None:
    properties = dict(message.properties) if message.properties else {}
    request.properties = properties
    request.reply_to = message.reply_to
    request.correlation_id = properties.get("correlation_id") or request.id
    request.delivery_info = {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": properties.get("priority", message.priority),
        "redelivered": bool(message.headers.get(REDELIVERED)),
    }


# --- retrying -------------------------------------------------------------------------------


def retry_message(
    message: Message,
    request: Request,
    *,
    retries: int,
    not_before: float,
    args: Any = None,
    kwargs: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Message:
    """Return the next attempt: the same id, ``retries``, due at ``not_before``, in its own queue.

    Arguments that are None stay; then the body's bytes are sent again as they are. ``options`` are
    those of apply_async that the retry changes.
    """
    changes = dict(options or {})
    headers = {k: v for k, v in message.headers.items() if k not in BROKER_HEADERS}
    headers.pop(REDELIVERED, None)
    encoder = TaskEncoder(str(request.task), serializer=_serializer_of(message).name)
    merged = _retry_options(message, request, headers)
    merged.update(changes)
    merged.update(retries=retries, not_before=not_before, eta=None)
    return encoder.encode(
        tuple(request.args if args is None else args),
        dict(request.kwargs if kwargs is None else kwargs),
        id=str(request.id),
        sent_at=message.sent_at,
        reply_to=request.reply_to,
        root_id=request.root_id,
        parent_id=request.id,
        options=merged,
    )


def _serializer_of(message: Message) -> Serializer:
    return for_content_type(message.content_type, frozenset({message.content_type}))


def _retry_options(
    message: Message, request: Request, headers: Mapping[str, Any]
) -> dict[str, Any]:
    hard, soft = request.timelimit
    return {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": (message.properties or _EMPTY).get("priority", message.priority),
        "compression": headers.get(COMPRESSION),
        "headers": request.headers,
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
        "expires": request.expires,
        "expires_at": request.expires_at,
    }
