"""Results: the meta object a store keeps under a task's id, exceptions in it, result tuples."""

from __future__ import annotations

import sys
import traceback as traceback_module
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from umbel.exceptions import BackendError, DecodeError, EncodeError, SecurityError
from umbel.serializers import (
    compress,
    decompress,
    json_chunks,
    json_dumps,
    json_loads,
    json_string,
)
from umbel.states import EXCEPTION_STATES, READY_STATES, SUCCESS
from umbel.wire.names import EXCEPTION_CLASSES, EXCEPTION_NAMES
from umbel.wire.request import Request
from umbel.wire.saferepr import bounded_repr

#: Before a compressed meta: this, the content type of the compression, a zero byte.
_COMPRESSED = b"\x00celery-compressed\x00"
_from_timestamp = datetime.fromtimestamp


def encode_meta(  # noqa: PLR0913 -- the fields of a meta
    task_id: str,
    state: str,
    *,
    result: Any = None,
    traceback: str | None = None,
    children: Iterable[Any] | None = None,
    date_done: float | str | None = None,
    request: Request | None = None,
    extended: bool = False,
    worker: str | None = None,
    dumps: Callable[[Any], bytes] = json_dumps,
) -> bytes:
    """Return the meta's bytes. ``date_done`` is wall time, and is kept for final states only.

    An exception as ``result`` is written as one. Raises EncodeError when the result cannot travel.
    """
    if isinstance(date_done, float):
        date_done = _from_timestamp(date_done, UTC).isoformat()
    plain = request is None or (request.group is None and request.parent_id is None)
    if state == SUCCESS and plain and not extended and not children and dumps is json_dumps:
        try:
            text = "".join(json_chunks(result, 0))
        except Exception as error:
            raise EncodeError(f"the result cannot be encoded: {error}") from error
        done = "null" if date_done is None else f'"{date_done}"'
        return (
            f'{{"status": "SUCCESS", "result": {text}, "traceback": null, '
            f'"children": {"null" if children is None else "[]"}, '
            f'"date_done": {done}, "task_id": {json_string(task_id)}}}'
        ).encode("ascii")
    if isinstance(result, BaseException):
        result = exception_to_wire(result)
    meta: dict[str, Any] = {
        "status": state,
        "result": result,
        "traceback": traceback,
        "children": None if children is None else list(children),
        "date_done": date_done if state in READY_STATES else None,
        "task_id": task_id,
    }
    if request is not None:
        _add_request(meta, request, worker if extended else None, extended=extended)
    return dumps(meta)


def _add_request(
    meta: dict[str, Any], request: Request, worker: str | None, *, extended: bool
) -> None:
    if request.group:
        meta["group_id"] = request.group
    if request.parent_id:
        meta["parent_id"] = request.parent_id
    if not extended:
        return
    info = request.delivery_info or {}
    meta.update(
        name=request.task,
        args=request.args,
        kwargs=request.kwargs,
        worker=worker if worker is not None else request.hostname,
        retries=request.retries,
        queue=info.get("routing_key"),
    )
    if request.stamps:
        names = request.stamped_headers or []
        meta["stamped_headers"] = names
        meta.update({name: request.stamps[name] for name in names if name in request.stamps})


def decode_meta(meta: bytes, loads: Callable[[bytes], Any] = json_loads) -> dict[str, Any]:
    """Return the meta as stored, compressed or not. Raises DecodeError."""
    if meta.startswith(_COMPRESSED):
        header, _, data = meta[len(_COMPRESSED) :].partition(b"\x00")
        meta = decompress(header.decode("ascii", "replace"), data)
    value = loads(meta)
    if not isinstance(value, dict) or not isinstance(value.get("status"), str):
        raise DecodeError(f"expected a result object with a status, got {value!r:.80}")
    return value


def compress_meta(meta: bytes, name: str) -> bytes:
    """Return the meta compressed, as readers since Celery 5.7 recognise it."""
    data, header = compress(name, meta)
    return _COMPRESSED + header.encode("ascii") + b"\x00" + data


def result_of(meta: dict[str, Any]) -> Any:
    """Return the meta's result; in the states whose result is an exception, that exception."""
    if meta["status"] in EXCEPTION_STATES:
        return exception_from_wire(meta.get("result"))
    return meta.get("result")


# --- exceptions -----------------------------------------------------------------------------


def exception_to_wire(error: BaseException) -> dict[str, Any]:
    """Return the exception as Celery's json results show it; arguments JSON lacks as their repr."""
    cls = type(error)
    module, name = EXCEPTION_NAMES.get(cls) or (cls.__module__, cls.__qualname__)
    return {"exc_type": name, "exc_message": _encodable(error.args), "exc_module": module}


def _encodable(args: tuple[Any, ...]) -> list[Any]:
    try:
        json_dumps(args)
    except EncodeError:
        return [_encodable_one(arg) for arg in args]
    return list(args)


def _encodable_one(arg: Any) -> Any:
    try:
        json_dumps(arg)
    except EncodeError:
        return bounded_repr(arg)
    return arg


def exception_from_wire(value: Any) -> BaseException:
    """Return the exception that a result holds.

    Its own class, if its module is imported here; else a new class of that name. Only exception
    classes are ever called: for anything else the exception returned is a SecurityError.
    """
    if isinstance(value, BaseException):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("exc_type"), str):
        return BackendError(f"the stored result is no exception: {bounded_repr(value, 200)}")
    name, module = value["exc_type"], value.get("exc_module")
    cls = _find(module, name)
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        return SecurityError(f"expected the name of an exception class, got {module}.{name}"[:200])
    message = value.get("exc_message", "")
    args = tuple(message) if isinstance(message, (list, tuple)) else (message,)
    return _make(cls, args)


def _find(module: Any, name: str) -> Any:
    """Look the class up without running code: no import, no attribute hooks."""
    own = EXCEPTION_CLASSES.get((module, name)) if isinstance(module, str) else None
    if own is not None:
        return own
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for part in name.split("."):
        if found is None:
            break
        found = _attribute(found, part)
    if found is None:
        found = _invented(module if isinstance(module, str) else "celery.exceptions", name)
    return found


def _attribute(owner: Any, name: str) -> Any:
    for scope in owner.__mro__ if isinstance(owner, type) else (owner,):
        try:
            return vars(scope)[name]
        except (KeyError, TypeError):
            continue
    return None


@lru_cache(maxsize=256)
def _invented(module: str, name: str) -> type[Exception]:
    """Make an exception class for one that this process does not know. The same each time."""
    text = "".join(c if c.isprintable() else "?" for c in name[:200]) or "Exception"
    scope = {"__module__": module, "__qualname__": text}
    return type(text.rpartition(".")[2] or text, (Exception,), scope)


def _make(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    try:
        error = cls(*args)
        str(error)
    except Exception:  # noqa: BLE001 -- constructors of users take and raise anything
        return Exception(f"{cls.__module__}.{cls.__qualname__}", *args)
    if isinstance(error, BaseException):
        return error
    return Exception(f"{cls.__module__}.{cls.__qualname__}", *args)


def traceback_text(error: BaseException) -> str:
    """Return the traceback as Python prints it."""
    return "".join(traceback_module.format_exception(error))


# --- result tuples --------------------------------------------------------------------------


def task_tuple(task_id: str, parent: Any = None) -> list[Any]:
    """Return the tuple of a task's result: ``[[id, parent], null]``; ``parent`` is such a tuple."""
    return [[task_id, parent], None]


def group_tuple(group_id: str, members: Iterable[Any], parent: Any = None) -> list[Any]:
    """Return the tuple of a group's result: ``[[id, parent], [member, ...]]``."""
    return [[group_id, parent], list(members)]
