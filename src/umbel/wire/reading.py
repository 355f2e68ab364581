"""Task messages, protocols 2 and 1: from a Message to a Request.

Nothing is trusted: whatever headers and body hold, ``decode`` returns a Request or raises
InvalidTaskError, DecodeError or ContentDisallowed, at a cost bounded by the message's size.
"""

from __future__ import annotations

from typing import Any, NoReturn

from umbel.exceptions import ContentDisallowed, DecodeError, InvalidTaskError
from umbel.message import Message
from umbel.serializers import JSON_TYPE, decompress, for_content_type, json_loads
from umbel.wire import protocol1
from umbel.wire.names import (
    COMPRESSION,
    EMPTY_EMBED,
    KNOWN_HEADERS,
    REDELIVERED,
    TASK_HEADERS,
    is_clean,
)
from umbel.wire.request import Request
from umbel.wire.saferepr import bounded_repr
from umbel.wire.times import from_iso


def decode(message: Message, accept: frozenset[str]) -> Request:
    """Return what the message asks for.

    Raises ContentDisallowed when its content type is not in ``accept``, DecodeError when its bytes
    are not what the type says, InvalidTaskError when they are no task message of protocol 2 or 1.
    """
    try:
        headers = message.headers
        body = _load(message, headers, accept)
        if "task" not in headers:
            headers, body = protocol1.upgraded(headers, body)
        try:
            request = _from_headers(headers)
            usual = len(headers) == len(TASK_HEADERS)
        except KeyError:
            request = _from_headers(_ABSENT | headers)
            usual = False
        if not usual:
            request.headers = _custom(headers)
            request.utc = headers.get("utc") is not False
        if request.eta is not None or request.expires is not None:
            _set_times(request)
        _set_body(request, body)
        _set_delivery(request, message)
    except (InvalidTaskError, DecodeError, ContentDisallowed):
        raise
    except Exception as error:
        raise InvalidTaskError(f"no task message: {type(error).__name__}: {error}") from error
    return request


def peek_id(message: Message) -> str:
    """Return the task's id, even of a message that cannot be decoded; "" if it has none."""
    headers: Any = message.headers
    found = headers.get("id") if isinstance(headers, dict) else None
    if is_clean(found):
        return found
    return message.id if is_clean(message.id) else ""


def _load(message: Message, headers: dict[str, Any], accept: frozenset[str]) -> Any:
    data = message.body
    if headers.get(COMPRESSION):
        data = decompress(headers[COMPRESSION], data)
    if message.content_type == JSON_TYPE and JSON_TYPE in accept:
        return json_loads(data)
    return for_content_type(message.content_type, accept).loads(data)


_new = Request.__new__
#: Headers that the sender left out.
_ABSENT: dict[str, Any] = {
    **dict.fromkeys(TASK_HEADERS),
    "retries": 0,
    "replaced_task_nesting": 0,
    "timelimit": [None, None],
    "stamps": {},
}
_NO_LIMITS = [None, None]
#: Above these a number is hostile: timers and back-off formulas overflow.
_COUNT_LIMIT = 1 << 31
_SECONDS_LIMIT = 1e9


def _from_headers(headers: dict[str, Any]) -> Request:
    """Return a request with all that headers tell; KeyError when one is missing.

    Types are tested at a glance; what is unusual is looked at again, and refused, in ``_check``.
    """
    request = _new(Request)
    request.task = task = headers["task"]
    request.id = task_id = headers["id"]
    request.lang = headers["lang"]
    request.shadow = shadow = headers["shadow"]
    request.eta = eta = headers["eta"]
    request.expires = expires = headers["expires"]
    request.group = group = headers["group"]
    request.group_index = group_index = headers["group_index"]
    request.retries = retries = headers["retries"]
    request.timelimit = (None, None)
    request.root_id = root_id = headers["root_id"] or task_id
    request.parent_id = parent_id = headers["parent_id"]
    request.argsrepr = headers["argsrepr"]
    request.kwargsrepr = headers["kwargsrepr"]
    request.origin = headers["origin"]
    request.ignore_result = ignored = headers["ignore_result"]
    request.replaced_task_nesting = nesting = headers["replaced_task_nesting"]
    request.stamped_headers = stamped = headers["stamped_headers"]
    stamps = headers["stamps"]
    request.stamps = stamps or {}
    if not (
        type(task) is str
        and type(task_id) is str
        and type(root_id) is str
        and type(retries) is int
        and 0 <= retries < _COUNT_LIMIT
        and (ignored is None or type(ignored) is bool)
        and shadow is eta is expires is group is group_index is stamped is None
        and nesting == 0
        and not stamps
        and headers["timelimit"] == _NO_LIMITS
        and task
        and task_id
        and task.isprintable()
        and task_id.isprintable()
        and root_id.isprintable()
        and (parent_id is None or (type(parent_id) is str and parent_id.isprintable()))
    ):
        _check(request, headers)
    request.headers = None
    request.utc = True
    request.not_before = 0.0
    request.expires_at = None
    request.hostname = None
    request.is_eager = False
    request.called_directly = False
    request.children = []
    request.logfile = None
    request.loglevel = None
    request.delivery_tag = None
    return request


def _check(request: Request, headers: dict[str, Any]) -> None:
    """Refuse headers of a wrong type; put the unusual ones that are right into the request."""
    for name in ("task", "id"):
        if not is_clean(headers[name]):
            _refuse(name, "a text", headers[name])
    for name in ("shadow", "eta", "expires", "group", "root_id", "parent_id"):
        if headers[name] is not None and not is_clean(headers[name]):
            _refuse(name, "a text or null", headers[name])
    for name in ("group_index", "retries", "replaced_task_nesting"):
        if headers[name] is not None and not _is_count(headers[name]):
            _refuse(name, "a count", headers[name])
    if not isinstance(request.ignore_result, (bool, type(None))):
        _refuse("ignore_result", "true, false or null", request.ignore_result)
    request.retries = headers["retries"] or 0
    request.replaced_task_nesting = headers["replaced_task_nesting"] or 0
    request.timelimit = _limits(headers["timelimit"])
    request.stamps = _stamps(headers["stamps"])
    request.stamped_headers = _stamp_names(headers["stamped_headers"])


def _refuse(name: str, expected: str, value: Any) -> NoReturn:
    raise InvalidTaskError(f"header {name!r}: expected {expected}, got {bounded_repr(value, 80)}")


def _limits(value: Any) -> tuple[float | None, float | None]:
    if value is None:
        return (None, None)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        hard, soft = value
        if all(limit is None or _is_limit(limit) for limit in (hard, soft)):
            return (hard, soft)
    _refuse("timelimit", "[hard, soft] in seconds", value)


def _is_count(value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and 0 <= value < _COUNT_LIMIT


def _is_limit(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < _SECONDS_LIMIT  # false for NaN too


def _stamp_names(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return list(value)
    _refuse("stamped_headers", "a list of names", value)


def _stamps(value: Any) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    _refuse("stamps", "an object", value)


def _custom(headers: dict[str, Any]) -> dict[str, Any] | None:
    return {name: value for name, value in headers.items() if name not in KNOWN_HEADERS} or None


def _set_times(request: Request) -> None:
    if request.eta:
        request.not_before = from_iso(request.eta, utc=request.utc)
    if request.expires:
        request.expires_at = from_iso(request.expires, utc=request.utc)


def _set_body(request: Request, body: Any) -> None:
    if not isinstance(body, (list, tuple)) or len(body) != 3:
        raise InvalidTaskError(f"body: expected [args, kwargs, embed], got {_cut(body)}")
    args, kwargs, embed = body
    if not isinstance(args, (list, tuple)):
        raise InvalidTaskError(f"arguments: expected a list, got {_cut(args)}")
    if not isinstance(kwargs, dict) or (kwargs and not {*map(type, kwargs)} <= _NAMES):
        raise InvalidTaskError(f"keyword arguments: expected an object, got {_cut(kwargs)}")
    request.args = args if type(args) is list else list(args)
    request.kwargs = kwargs
    request.callbacks = request.errbacks = request.chain = request.chord = None
    if embed and embed != EMPTY_EMBED:
        _set_follow_ups(request, embed)


_NAMES = {str}


def _cut(value: Any) -> str:
    return bounded_repr(value, 80)


def _set_follow_ups(request: Request, embed: Any) -> None:
    if not isinstance(embed, dict):
        raise InvalidTaskError(f"follow-ups: expected an object, got {_cut(embed)}")
    request.callbacks = _signatures(embed, "callbacks")
    request.errbacks = _signatures(embed, "errbacks")
    request.chain = _signatures(embed, "chain")
    chord = embed.get("chord")
    request.chord = None if chord is None else _signature(chord, "chord")


def _signatures(embed: dict[str, Any], name: str) -> list[Any] | None:
    value = embed.get(name)
    if value is None:
        return None
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, (list, tuple)):
        raise InvalidTaskError(f"{name}: expected a list of signatures, got {_cut(value)}")
    return [_signature(item, name) for item in listed]


def _signature(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or not is_clean(value.get("task")):
        raise InvalidTaskError(f"{name}: expected a signature, got {_cut(value)}")
    for part, kind in (("args", (list, tuple)), ("kwargs", dict), ("options", dict)):
        if value.get(part) is not None and not isinstance(value[part], kind):
            raise InvalidTaskError(f"{name}: expected {part} of a signature, got {_cut(value)}")
    return value


def _set_delivery(request: Request, message: Message) -> None:
    request.reply_to = message.reply_to
    request.correlation_id = request.id
    properties: dict[str, Any] = {}
    request.properties = properties
    priority = message.priority
    if message.properties:
        properties.update(message.properties)
        request.correlation_id = properties.get("correlation_id") or request.id
        priority = properties.get("priority", priority)
    request.delivery_info = {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": priority,
        "redelivered": REDELIVERED in message.headers and bool(message.headers[REDELIVERED]),
    }
