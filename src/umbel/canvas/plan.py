"""From a workflow to the calls it begins with. Pure: dicts in, values out, no application.

A workflow is a tree of signatures (wire-protocol 5.2). Three steps turn it into messages; whoever
sends it takes them, the client and the worker that comes to the middle of one alike:

    settle       brings it into its normal form, in place, and gives every task its id
    outline      tells the result tuple of what was settled
    plan         returns the calls to make now, and the joins that must be open before

In the normal form a group or chord is the last link of its chain: what follows a group is the body
of a chord, what follows a chord belongs to its body. A member of a header yields one value: one
that ends in a group is made a chord, whose body gathers the group's values.

Nothing here recurses over a workflow except ``outline``, one frame a level: a chain of 20,000 links
or a nesting of hundreds is a loop. ``settle`` and ``plan`` change what they are given, which is the
caller's own copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from umbel.canvas.windows import Kept, cut
from umbel.exceptions import ChordError
from umbel.message import Join
from umbel.serializers import json_dumps
from umbel.values import value
from umbel.wire.names import NESTING
from umbel.wire.result import group_tuple, task_tuple
from umbel.wire.saferepr import bounded_repr
from umbel.wire.task import Request

#: A signature as it travels: a dict of six keys.
Node = dict[str, Any]

#: Values of ``subtask_type``.
CHAIN, GROUP, CHORD = "chain", "group", "chord"
#: The task that gathers the values of a group that is a member of a join.
ACCUMULATE = "celery.accumulate"
CHUNKS, MAP, STARMAP = "celery.chunks", "celery.map", "celery.starmap"

#: Options of a workflow that say what it is, not how its tasks are sent.
_OWN = frozenset(
    {"task_id", "group_id", "group_index", "chord", "chain", "root_id", "parent_id", "reply_to"}
)
#: Those of them that a call may give, and mean the task that yields the result.
_ENDS = ("task_id", "group_id", "group_index", "chord")
#: Options of a chain that are meant for its first link alone; of a chord, for its header.
BEGINNING = ("countdown", "eta")


@value
class Call:
    """A task to be sent."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]


@value
class Gate:
    """A join to be opened: when so many members have ended, its body follows."""

    id: str
    size: int
    body: Node


@dataclass(slots=True)
class Plan:
    """What a workflow begins with."""

    calls: list[Call] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


# --- looking


def links_of(chain: Mapping[str, Any]) -> list[Node]:
    """Return the links of a chain."""
    links: list[Node] = chain["kwargs"]["tasks"]
    return links


def header_of(chord: Mapping[str, Any]) -> list[Node]:
    """Return the members of a chord's header, which is a list or a group."""
    header = chord["kwargs"]["header"]
    return members_of(header) if isinstance(header, Mapping) else flat(header)


def body_of(chord: Mapping[str, Any]) -> Node:
    """Return a chord's body."""
    body: Node = chord["kwargs"]["body"]
    return body


def members_of(group: Mapping[str, Any]) -> list[Node]:
    """Return the members of a group; a group among them stands for its own."""
    return flat(group["kwargs"]["tasks"])


def flat(members: Sequence[Node]) -> list[Node]:
    """Return these members, those of groups among them in their places."""
    found: list[Node] = []
    waiting = list(members)[::-1]
    while waiting:
        member = waiting.pop()
        if member.get("subtask_type") != GROUP:
            found.append(member)
            continue
        _push_down(member)
        waiting += member["kwargs"]["tasks"][::-1]
    return found


def final(node: Node) -> Node:
    """Return the task or group that yields a workflow's result."""
    while True:
        match node.get("subtask_type"):
            case "chain":
                node = links_of(node)[-1]
            case "chord":
                node = body_of(node)
            case _:
                return node


def tasks_of(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield the single tasks of these workflows."""
    waiting = list(nodes)[::-1]
    while waiting:
        node = waiting.pop()
        match node.get("subtask_type"):
            case "chain":
                waiting += links_of(node)[::-1]
            case "group":
                waiting += members_of(node)[::-1]
            case "chord":
                waiting.append(body_of(node))
                waiting += header_of(node)[::-1]
            case _:
                yield node
                waiting += node["options"].get("chain") or ()  # so Celery sends what follows a body


def has_chord(node: Node) -> bool:
    """Tell whether there is a chord in a workflow."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        match node.get("subtask_type"):
            case "chord":
                return True
            case "chain" | "group":
                waiting += node["kwargs"]["tasks"]
            case _:
                continue
    return False


def listed_signatures(value: Any) -> list[Any]:
    """Return what an option holds that is one signature, several, or none."""
    if value is None:
        return []
    return [value] if isinstance(value, Mapping) else list(value)


# --- making


def node_of(task: str, kwargs: dict[str, Any], kind: str | None = None, **options: Any) -> Node:
    """Return a signature as a plain dict."""
    return {
        "task": task,
        "args": [],
        "kwargs": kwargs,
        "options": options,
        "subtask_type": kind,
        "immutable": False,
    }


def chain_of(links: Sequence[Node]) -> Node:
    """Return the chain of these links; of one link, the link."""
    if len(links) == 1:
        return links[0]
    return node_of("celery.chain", {"tasks": list(links)}, CHAIN)


def chord_of(header: Any, body: Node, **options: Any) -> Node:
    """Return a chord of a header, a list or a group, and a body."""
    kwargs = {"kwargs": {}, "header": header, "body": body}
    return node_of("celery.chord", kwargs, CHORD, **options)


def distribute(node: Node, options: Mapping[str, Any]) -> None:
    """Give a workflow's parts what the options of its call say; their own stay.

    What says whose result it is goes to the task that yields it, and outdoes its own.
    """
    rest = dict(options)
    if ends := {name: rest.pop(name) for name in _ENDS if name in rest}:
        attach(node, ends)
    if not rest:
        return
    match node.get("subtask_type"):
        case "chain":
            _give_links(links_of(node), rest)
        case "group":
            for member in node["kwargs"]["tasks"]:
                distribute(member, rest)
        case "chord":
            beginning = header_options(rest)
            for member in header_of(node) if beginning else ():
                distribute(member, beginning)
            following = {name: it for name, it in rest.items() if name not in BEGINNING}
            distribute(body_of(node), following)
        case _:
            _give(node, rest)


def header_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a chord's options that its header's members get; the body gets all.

    All but what says whose result it is, and what follows it.
    """
    return {name: it for name, it in options.items() if name not in (*_OWN, "link", "link_error")}


def _give_links(links: list[Node], options: dict[str, Any]) -> None:
    beginning = {name: options.pop(name) for name in BEGINNING if name in options}
    last = {"link": options.pop("link")} if "link" in options else {}
    distribute(links[0], beginning)
    distribute(links[-1], last)
    for link in links if options else ():
        distribute(link, options)


def _give(node: Node, options: Mapping[str, Any]) -> None:
    own = node["options"]
    for name, given in options.items():
        if name in ("link", "link_error") and own.get(name):
            own[name] = [*listed_signatures(own[name]), *listed_signatures(given)]
        else:
            own.setdefault(name, given)


def _push_down(node: Node) -> None:
    """Leave a workflow in the middle of another only the options that are its own."""
    options = node["options"]
    given = {name: options.pop(name) for name in [*options] if name not in _OWN}
    if given:
        distribute(node, given)


# --- settling


def settle(
    node: Node, new_id: Callable[[], str], *, reply_to: str = "", single: bool = False
) -> None:
    """Bring a workflow into its normal form and give each of its tasks an id, in place.

    What has its id keeps it, so that settling again changes nothing. With ``single`` it is to yield
    one value, as a member of a header does.
    """
    _Settling(new_id, reply_to).run(node, single=single)


class _Settling:
    """One run of ``settle``: what is still to be visited, as nothing here may recurse."""

    def __init__(self, new_id: Callable[[], str], reply_to: str) -> None:
        self._new_id = new_id
        self._reply_to = reply_to
        #: Nodes, the id that was chosen for the result, and whether that must be a single value.
        self._waiting: list[tuple[Node, str | None, bool]] = []
        self._chains: list[Node] = []

    def run(self, node: Node, *, single: bool) -> None:
        waiting = self._waiting
        waiting.append((node, None, single))
        while waiting:
            node, chosen, single = waiting.pop()
            if node["task"] == CHUNKS:
                _become_group(node)
            kind = node.get("subtask_type")
            if kind == GROUP and single:
                _become_gathering(node)  # a chord
                single = False
            if kind is None:
                self._task(node, chosen)
            else:
                _push_down(node)
                self._workflow(node, chosen, single=single)
        for chain in self._chains:
            chain["options"]["task_id"] = final(chain)["options"]["task_id"]

    def _task(self, node: Node, chosen: str | None) -> None:
        options = node["options"]
        options.setdefault("task_id", chosen or self._new_id())
        if self._reply_to:
            options.setdefault("reply_to", self._reply_to)

    def _workflow(self, node: Node, chosen: str | None, *, single: bool) -> None:
        match node["subtask_type"]:
            case "chain":
                self._chain(node, chosen, single=single)
            case "group":
                self._group(node, chosen)
            case "chord":
                self._chord(node, chosen, single=single)
            case other:
                raise ValueError(f"expected a chain, a group or a chord, got {other!r:.80}")

    def _chain(self, node: Node, chosen: str | None, *, single: bool) -> None:
        links = node["kwargs"]["tasks"] = _normal(links_of(node))
        if not links:
            raise ValueError("an empty chain cannot be sent")
        self._waiting.append((links[-1], node["options"].get("task_id") or chosen, single))
        self._waiting += ((link, None, False) for link in links[-2::-1])
        self._chains.append(node)

    def _group(self, node: Node, chosen: str | None) -> None:
        node["options"].setdefault("task_id", chosen or self._new_id())
        members = node["kwargs"]["tasks"] = members_of(node)
        for index, member in enumerate(members):
            final(member)["options"].setdefault("group_index", index)
        self._waiting += ((member, None, False) for member in members[::-1])

    def _chord(self, node: Node, chosen: str | None, *, single: bool) -> None:
        members = _settle_header(node, self._new_id)
        self._waiting.append((body_of(node), chosen, single))
        self._waiting += ((member, None, True) for member in members[::-1])


def _settle_header(chord: Node, new_id: Callable[[], str]) -> list[Node]:
    members = header_of(chord)
    header = chord["kwargs"]["header"]
    if not isinstance(header, dict):
        header = node_of("celery.group", {}, GROUP)
        chord["kwargs"]["header"] = header
    header["kwargs"]["tasks"] = members
    known = chord["options"].get("task_id") or header["options"].get("task_id")
    chord["options"]["task_id"] = header["options"]["task_id"] = known or new_id()
    for index, member in enumerate(members):
        if member.get("subtask_type") is None:
            member["options"].setdefault("group_index", index)
    return members


def _normal(links: list[Node]) -> list[Node]:
    """Return links of which only the last is a group or chord; a chain among them is unrolled."""
    found: list[Node] = []
    waiting = links[::-1]
    while waiting:
        link = waiting.pop()
        if link["task"] == CHUNKS:
            _become_group(link)
        kind = link.get("subtask_type")
        if kind == CHAIN:
            _push_down(link)
            waiting += links_of(link)[::-1]
            continue
        if (waiting or found) and kind == GROUP and not members_of(link):
            continue  # it does nothing
        if waiting and kind in (GROUP, CHORD):
            return [*found, _followed(link, waiting[::-1])]
        found.append(link)
    return found


def _followed(link: Node, rest: list[Node]) -> Node:
    """Return the chord of a group and what follows it; of a chord, the same with a longer body."""
    _push_down(link)
    if link.get("subtask_type") == GROUP:
        gid = link["options"].get("task_id")
        return chord_of(link, chain_of(rest), **({"task_id": gid} if gid else {}))
    link["kwargs"]["body"] = chain_of([body_of(link), *rest])
    return link


def _become_gathering(group: Node) -> None:
    """Make a group the chord of itself and a body that returns its values as one list."""
    inner = dict(group)
    body = node_of(ACCUMULATE, {"index": 0})
    chord = chord_of(inner, body)
    if inner["options"].get("task_id"):
        chord["options"]["task_id"] = inner["options"]["task_id"]
    group.update(chord)


def _become_group(chunks: Node) -> None:
    """Make ``celery.chunks`` the group of starmaps that it stands for."""
    task, items, size = (chunks["kwargs"][name] for name in ("task", "it", "n"))
    items = list(items)
    members = [
        node_of(STARMAP, {"task": task, "it": items[start : start + size]})
        for start in range(0, len(items), size)
    ]
    for member in members:
        member["immutable"] = True
    options = chunks["options"]
    chunks.update(node_of("celery.group", {"tasks": members}, GROUP), options=options)


# --- the result


def outline(node: Mapping[str, Any], parent: Any = None) -> Any:
    """Return the result tuple of a settled workflow, with the results of what comes before it."""
    match node.get("subtask_type"):
        case "chain":
            for link in links_of(node):
                parent = outline(link, parent)
            return parent
        case "chord":
            return outline(body_of(node), outline(node["kwargs"]["header"], parent))
        case "group":
            members = [outline(member) for member in node["kwargs"]["tasks"]]
            return group_tuple(node["options"]["task_id"], members, parent)
        case _:
            return task_tuple(node["options"]["task_id"], parent)


# --- planning


def attach(node: Node, options: Mapping[str, Any]) -> None:
    """Give options to the task that yields a settled workflow's result."""
    final(node)["options"].update(options)


def plan(
    node: Node,
    args: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    *,
    whole: int = 0,
) -> Plan:
    """Return what a settled workflow begins with.

    ``args`` are put in front of the arguments of the tasks that begin; ``options`` are added to
    those of the task that yields the result. Chains of more than ``whole`` links, unless that is 0,
    are sent in windows.
    """
    made = Plan()
    waiting: list[tuple[Node, Sequence[Any], Mapping[str, Any]]] = [(node, args, options or {})]
    while waiting:
        node, args, about = waiting.pop()
        args = _merged(node, args)
        match node.get("subtask_type"):
            case "chain":
                first, *following = links_of(node)
                if following:
                    attach(node, about)
                    following, kept = _cut(following, whole)
                    made.kept += kept
                    about = {"chain": following[::-1]}
                waiting.append((first, args, about))
            case "group":
                waiting += _planned_members(node, args)
            case "chord":
                attach(node, about)
                made.kept += cut_body(body_of(node), whole)
                _plan_chord(node, args, made, waiting)
            case _:
                call = Call(node["task"], tuple(args), node["kwargs"], {**node["options"], **about})
                made.calls.append(call)
    return made


def cut_body(body: Node, whole: int) -> list[Kept]:
    """Shorten the body of a chord, which each member carries; return the windows to be kept."""
    if body.get("subtask_type") != CHAIN:
        return []
    body["kwargs"]["tasks"], kept = _cut(links_of(body), whole)
    return kept


def _cut(links: list[Node], whole: int) -> tuple[list[Node], list[Kept]]:
    return cut(links, final(links[-1])["options"]["task_id"], whole)


def _merged(node: Node, args: Sequence[Any]) -> Sequence[Any]:
    own = node.get("args") or ()
    return own if node.get("immutable") else (*args, *own)


def _planned_members(
    group: Node, args: Sequence[Any]
) -> Iterator[tuple[Node, Sequence[Any], Mapping[str, Any]]]:
    """Yield the members of a group, the last first."""
    group_id = group["options"]["task_id"]
    for index, member in reversed([*enumerate(group["kwargs"]["tasks"])]):
        # Who says whose header it is in comes from a Celery client, and is counted there.
        in_header = "chord" in final(member)["options"]
        about = {} if in_header else {"group_id": group_id, "group_index": index}
        yield member, args, about


def _plan_chord(
    chord: Node,
    args: Sequence[Any],
    made: Plan,
    waiting: list[tuple[Node, Sequence[Any], Mapping[str, Any]]],
) -> None:
    body, header = body_of(chord), chord["kwargs"]["header"]
    group_id, members = header["options"]["task_id"], header["kwargs"]["tasks"]
    end = final(body)
    if end.get("subtask_type") is None:
        end["options"].setdefault("group_id", group_id)
    if not members:
        waiting.append((body, ([],), {}))
        return
    made.gates.append(Gate(group_id, len(members), body))
    for index, member in reversed([*enumerate(members)]):
        about = {"group_id": group_id, "group_index": index, "chord": body}
        waiting.append((member, args, about))


def replacement(node: Node, request: Request, settle: Callable[..., None]) -> Node:
    """Return what takes the place of a running task, settled: its id, and all that follows it."""
    settle(node, single=True)
    linked = {"link": request.callbacks, "link_error": request.errbacks}
    distribute(node, {name: given for name, given in linked.items() if given})
    about = {
        "task_id": request.id,
        "chord": request.chord,
        "group_id": request.group,
        "group_index": request.group_index,
        NESTING: request.replaced_task_nesting + 1,
    }
    attach(node, {name: given for name, given in about.items() if given is not None})
    if request.chain:
        node = chain_of([node, *request.chain[::-1]])
        settle(node)
    return node


# --- joins

#: Why a chord cannot be sent.
NO_JOINS = (
    "a chord needs a result store that can join its header, and rpc:// is none: "
    "set result_backend to a Redis or SQLite URL"
)
#: Failed members that an error names, and characters of each exception.
_NAMED, _SHOWN = 10, 300


def joins_expire(settings: Mapping[str, Any]) -> float | None:
    """Return the seconds after which a join that waits for members is forgotten."""
    given: float | None = settings["result_chord_expires"]
    expires: float | None = settings["result_expires"]
    return expires if given is None else given


def join_of(gate: Gate, request: Request | None, *, expires_in: float | None) -> Join:
    """Return the join of a planned chord; ``request`` is the one that causes it."""
    return Join(gate.id, gate.size, context_of(gate.body, request), expires_in)


def context_of(body: Node, request: Request | None) -> bytes:
    """Return what is needed to make a body later."""
    about: dict[str, Any] = {"body": body}
    if request is not None:
        about |= {
            "root_id": request.root_id,
            "parent_id": request.id,
            "reply_to": request.reply_to,
            "stamps": request.stamps,
            "stamped_headers": request.stamped_headers,
            "delivery_info": request.delivery_info,
        }
    return json_dumps(about)


def chord_error(failed: Sequence[tuple[str, Any]]) -> ChordError:
    """Return the error of a chord whose header failed: which members, and why."""
    named = [
        f"Dependency {task_id} raised {bounded_repr(error, _SHOWN)}"
        for task_id, error in failed[:_NAMED]
    ]
    if len(failed) > _NAMED:
        named.append(f"{len(failed) - _NAMED} more failed")
    return ChordError("; ".join(named))
