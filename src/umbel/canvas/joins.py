"""Joins: what the members of a chord's header leave, and what follows when the last one has ended.

A join is a set of members (``message.Join``). Every end of a member is an arrival: its success, its
failure, its revocation, its way to the dead letters. The commit that stores the result records it,
and the one that makes the set complete says so. Then the body is made here, of what the members
left, and sent by effects that the server performs once (``Effects.closes``); whoever was to do it
may die, another will find the join. A body whose header failed is not sent: its ids get a failure
that names the members and why.

Parts are what Celery's workers write and read in the same place: ``[1, task id, state, result]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from umbel import states
from umbel.canvas.plan import Node, chord_error, context_of, final, node_of, tasks_of
from umbel.exceptions import EncodeError
from umbel.message import Arrival
from umbel.serializers import json_loads
from umbel.servers.seams import Joined
from umbel.wire.errors import exception_from_wire, exception_to_wire
from umbel.wire.names import is_clean
from umbel.wire.result import decode_group
from umbel.wire.task import Request


def arrival_of(
    request: Request,
    state: str,
    value: Any,
    *,
    dumps: Callable[[Any], bytes],
    expires_in: float | None,
) -> Arrival | None:
    """Return the arrival of a request that has ended, if it is a member of a join."""
    if request.chord is None or request.group is None:
        return None
    return _arrival(
        request.id, request.group, request.group_index, request.chord, (state, value), request,
        dumps=dumps, expires_in=expires_in,
    )  # fmt: skip


def arrival_instead(
    node: Node,
    error: BaseException,
    request: Request,
    *,
    dumps: Callable[[Any], bytes],
    expires_in: float | None,
) -> Arrival | None:
    """Return the arrival of a task that will never run, if it is a member of a join."""
    options = node["options"]
    task_id, group_id = options.get("task_id"), options.get("group_id")
    index, body = options.get("group_index"), options.get("chord")
    if not (is_clean(task_id) and is_clean(group_id) and isinstance(body, dict)):
        return None
    return _arrival(
        task_id, group_id, index if isinstance(index, int) else None, body,
        (states.FAILURE, error), request, dumps=dumps, expires_in=expires_in,
    )  # fmt: skip


def _arrival(  # noqa: PLR0913 -- the fields of an arrival
    task_id: str,
    join: str,
    index: int | None,
    body: Node,
    outcome: tuple[str, Any],
    request: Request,
    *,
    dumps: Callable[[Any], bytes],
    expires_in: float | None,
) -> Arrival:
    state, value = outcome
    if isinstance(value, BaseException):
        value = exception_to_wire(value, dumps)
    part = dumps([1, task_id, state, value])
    try:
        context = context_of(body, request) if body else b""
    except EncodeError:
        if state == states.SUCCESS:
            raise  # so its member fails, and says why
        # The body will not be sent: that it has an id is enough.
        context = context_of(node_of("", {}, **ids_of(body)), request)
    member = f"{task_id}:{'+inf' if index is None else index}"
    return Arrival(join, member, index, part, context, expires_in)


# --- when it is complete


def released(joined: Joined) -> tuple[Node, Request]:
    """Return the body of a complete join, and a request that stands for the last member's."""
    try:
        about = json_loads(joined.context)
        body: Node = about.pop("body")
        request = Request(**about)
    except Exception:  # noqa: BLE001 -- it may have been written by anybody: then there is no body
        body, request = {}, Request()
    request.update({"id": request.parent_id, "task": "", "reply_to": request.reply_to or ""})
    return body, request


def ids_of(body: Any) -> dict[str, Any]:
    """Return the options that say which task yields a body's result; of a damaged one, none."""
    try:
        options: dict[str, Any] = final(body)["options"]
        kept = ("task_id", "group_id", "group_index", "reply_to", "link_error")
        return {name: options[name] for name in kept if name in options}
    except Exception:  # noqa: BLE001 -- anything may be in a message
        return {}


def values_of(joined: Joined, loads: Callable[[bytes], Any] = json_loads) -> list[Any]:
    """Return what the members returned, in order; raises ChordError if some did not."""
    found: dict[str, Any] = {}
    values: list[Any] = []
    failed: list[tuple[str, Any]] = []
    for part in joined.parts:
        task_id, state, result = _read(part, loads)
        if state in states.PROPAGATE_STATES:
            failed.append((task_id, result))
        values.append(result)
        found[task_id] = result
    if failed:
        raise chord_error(failed)
    return values if joined.shape is None else _shaped(decode_group(joined.shape)[1], found)


def _read(part: bytes, loads: Callable[[bytes], Any]) -> tuple[str, str, Any]:
    try:
        _, task_id, state, result = loads(part)
        if state in states.PROPAGATE_STATES:
            result = exception_from_wire(result)
    except Exception as error:  # noqa: BLE001 -- whoever reaches the store may have written it
        return "?", states.FAILURE, error
    return str(task_id), state, result


def _shaped(members: Sequence[Any], found: Mapping[str, Any]) -> list[Any]:
    """Return values as the groups of a saved header nest."""
    return [
        found.get(head[0] if not isinstance(head, str) else head)
        if inner is None
        else _shaped(inner, found)
        for head, inner in members
    ]


def listed_tasks(nodes: Iterable[Any]) -> list[Node]:
    """Return the single tasks of workflows that came in a message; of damaged ones, none."""
    try:
        return [each for each in tasks_of([*nodes]) if isinstance(each.get("options"), dict)]
    except Exception:  # noqa: BLE001 -- anything may be in a message; these ids cannot be told
        return []
