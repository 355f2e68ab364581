"""Results: the meta object that a store keeps under a task's id.

What a caller reads here was written by any program that reaches the store, so nothing of it is
trusted: exceptions are built from exception classes alone, looked up without running code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from umbel.exceptions import DecodeError, EncodeError, Retry
from umbel.serializers import (
    compress,
    decompress,
    json_chunks,
    json_dumps,
    json_loads,
    json_string,
    json_text,
)
from umbel.states import EXCEPTION_STATES, READY_STATES, RETRY, SUCCESS
from umbel.wire.errors import exception_from_wire, exception_to_wire
from umbel.wire.request import Request
from umbel.wire.saferepr import bounded_repr

#: Before a compressed meta; then the content type of the compression, a zero byte, the data.
_COMPRESSED = b"\x00celery-compressed\x00"
_from_timestamp = datetime.fromtimestamp


def encode_meta(  # noqa: PLR0913 -- the fields of a meta
    task_id: str,
    state: str,
    *,
    result: Any = None,
    traceback: str | None = None,
    children: Sequence[Any] | None = None,
    date_done: float | str | None = None,
    request: Request | None = None,
    extended: bool = False,
    worker: str | None = None,
    dumps: Callable[[Any], bytes] = json_dumps,
) -> bytes:
    """Return the meta's bytes.

    ``date_done`` is wall time and is kept for final states only; ``children`` are result tuples,
    None = not stored by the task itself. An exception as ``result`` is written as one; a RETRY that
    no exception caused has none. Raises EncodeError when the result cannot travel.
    """
    if date_done is not None and not isinstance(date_done, str):
        date_done = _from_timestamp(date_done, UTC).isoformat()
    if state != SUCCESS or extended or dumps is not json_dumps:
        stored = _stored(state, result, dumps)
        meta = _meta(task_id, state, stored, traceback, children, date_done)
        return _dump(meta, request, worker, dumps, extended=extended)
    try:
        text = "".join(json_chunks(result, 0))
    except Exception:  # noqa: BLE001 -- users' `__json__` raises anything; said properly there
        text = json_text(result)
    more = "" if request is None or not (request.group or request.parent_id) else _origin(request)
    return (
        f'{{"status": "SUCCESS", "result": {text}, "traceback": null, '
        f'"children": {json_text(children) if children else "null" if children is None else "[]"}, '
        f'"date_done": {"null" if date_done is None else json_string(date_done)}{more}, '
        f'"task_id": {json_string(task_id)}}}'
    ).encode("ascii")


def _origin(request: Request) -> str:
    text = f', "group_id": {json_text(request.group)}' if request.group else ""
    if request.parent_id:
        text += f', "parent_id": {json_text(request.parent_id)}'
    return text


def _stored(state: str, result: Any, dumps: Callable[[Any], bytes]) -> Any:
    if state == SUCCESS:
        return result
    if state == RETRY and isinstance(result, Retry):
        result = result.exc
    return exception_to_wire(result, dumps) if isinstance(result, BaseException) else result


def _meta(
    task_id: str,
    state: str,
    result: Any,
    traceback: str | None,
    children: Sequence[Any] | None,
    date_done: str | None,
) -> dict[str, Any]:
    return {
        "status": state,
        "result": result,
        "traceback": traceback,
        "children": None if children is None else list(children),
        "date_done": date_done if state in READY_STATES else None,
        "task_id": task_id,
    }


def _dump(
    meta: dict[str, Any],
    request: Request | None,
    worker: str | None,
    dumps: Callable[[Any], bytes],
    *,
    extended: bool,
) -> bytes:
    if request is None:
        return dumps(meta)
    if request.group:
        meta["group_id"] = request.group
    if request.parent_id:
        meta["parent_id"] = request.parent_id
    return _dump_extended(meta, request, worker, dumps) if extended else dumps(meta)


def _dump_extended(
    meta: dict[str, Any],
    request: Request,
    worker: str | None,
    dumps: Callable[[Any], bytes],
) -> bytes:
    meta.update(
        name=request.task,
        args=request.args,
        kwargs=request.kwargs,
        worker=worker or request.hostname,
        retries=request.retries,
        queue=(request.delivery_info or {}).get("routing_key"),
    )
    if request.stamps:
        names = request.stamped_headers or []
        meta["stamped_headers"] = names
        meta.update({name: request.stamps[name] for name in names if name in request.stamps})
    try:
        return dumps(meta)
    except EncodeError:
        # Arguments that came as pickle need not have a form in JSON. Their task's result counts.
        meta["args"] = bounded_repr(request.args)
        meta["kwargs"] = bounded_repr(request.kwargs)
        return dumps(meta)


def decode_meta(meta: bytes, loads: Callable[[bytes], Any] = json_loads) -> dict[str, Any]:
    """Return the meta as stored, compressed or not. Raises DecodeError."""
    value = loads(_plain(meta) if meta.startswith(b"\x00") else meta)
    if type(value) is not dict or type(value.get("status")) is not str:
        raise DecodeError(f"expected a result with a status, got {bounded_repr(value, 80)}")
    return value


def _plain(meta: bytes) -> bytes:
    if not meta.startswith(_COMPRESSED):
        return meta
    header, _, data = meta[len(_COMPRESSED) :].partition(b"\x00")
    return decompress(header.decode("ascii", "replace"), data)


def compress_meta(meta: bytes, name: str) -> bytes:
    """Return the meta compressed, as readers since Celery 5.7 recognise it."""
    data, header = compress(name, meta)
    return b"".join((_COMPRESSED, header.encode("ascii"), b"\x00", data))


def result_of(meta: dict[str, Any]) -> Any:
    """Return the meta's result; in states whose result is an exception, that exception or None."""
    result = meta.get("result")
    if meta["status"] not in EXCEPTION_STATES or result is None:
        return result
    return exception_from_wire(result)


# --- result tuples --------------------------------------------------------------------------


def task_tuple(task_id: str, parent: Any = None) -> list[Any]:
    """Return the tuple of a task's result: ``[[id, parent], null]``; ``parent`` is such a tuple."""
    return [[task_id, parent], None]


def group_tuple(group_id: str, members: Iterable[Any], parent: Any = None) -> list[Any]:
    """Return the tuple of a group's result: ``[[id, parent], [member, ...]]``."""
    return [[group_id, parent], list(members)]


def encode_group(group: Any) -> bytes:
    """Return what a store keeps of a saved group, given its tuple."""
    return json_dumps({"result": group})


def decode_group(data: bytes) -> Any:
    """Return the tuple of a saved group. Raises DecodeError."""
    value = json_loads(_plain(data) if data.startswith(b"\x00") else data)
    if type(value) is not dict or "result" not in value:
        raise DecodeError(f"expected a saved group, got {bounded_repr(value, 80)}")
    return value["result"]
