"""Sends the parts of one workflow in slices: so many messages in each publish call.

The joins that a slice's messages belong to are opened before they are sent, so that no member can
end before its join knows how many there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NoReturn, TypeVar

from umbel.calling import policy_of, tell_published
from umbel.canvas.plan import (
    CHUNKS,
    GROUP,
    NO_JOINS,
    Call,
    Gate,
    Node,
    cut_body,
    distribute,
    flat,
    has_chord,
    join_of,
    joins_expire,
    outline,
    plan,
    settle,
    tasks_of,
)
from umbel.canvas.signature import Signature, maybe_signature
from umbel.canvas.windows import Kept
from umbel.context import Application, Caller, current_request
from umbel.exceptions import ImproperlyConfigured
from umbel.ids import new_id
from umbel.message import Message
from umbel.options import check_call
from umbel.result import AsyncResult, result_from_tuple
from umbel.routing import Route

R = TypeVar("R")

#: Messages that are published together: enough that a round trip is nothing beside the encoding,
#: few enough that they (about 1 kB each) are no burden.
SLICE = 1000
#: What plain calls are told apart by, and made of. In C: they are called for each member.
_task_of = itemgetter("task")
_options_of = itemgetter("options")
_kind_of = itemgetter("subtask_type")
_arguments_of = itemgetter("args", "kwargs")
#: Options that add to those of the members.
_LINKS = frozenset({"link", "link_error"})


class Outbox:
    """Owned by the thread that sends the workflow."""

    def __init__(self, app: Application, options: Mapping[str, Any]) -> None:
        check_call(options)
        self._app = app
        self._request = current_request.get()
        self._deadline_in = options.get("deadline_in")
        self._policy = policy_of(options)
        self._reply_to = app.servers().results.reply_to
        self._calls: dict[str, Caller] = {}
        self._gates: list[Gate] = []
        self._kept: list[Kept] = []
        joined = app.servers().joins is not None
        #: Links of a chain that is sent whole; windows are kept where joins are.
        self._whole: int = app.conf.task_whole_chain if joined else 0
        self._messages: list[Message] = []
        self._routes: dict[tuple[str, ...], Route] = {}
        #: How many messages the server has.
        self.stored = 0

    def settle(self, node: Node, *, single: bool = False) -> Any:
        """Bring a workflow into its normal form; return its result object."""
        settle(node, new_id, reply_to=self._reply_to, single=single)
        for each in tasks_of([node]):
            check_call(each["options"])
        if self._app.servers().joins is None and has_chord(node):
            raise ImproperlyConfigured(NO_JOINS)
        result = result_from_tuple(outline(node), self._app)
        if node.get("subtask_type") is None:
            result.ignored = self._call(node["task"]).result(result.id, node["options"]).ignored
        return result

    def put(
        self, node: Node, options: Mapping[str, Any] | None = None, *, args: Sequence[Any] = ()
    ) -> None:
        """Put what a settled workflow begins with; ``options`` are those of its last task."""
        made = plan(node, args, options, whole=self._whole)
        self._kept += made.kept
        self._gates += made.gates
        for call in made.calls:
            self.put_call(call)

    def settle_body(self, body: Node) -> Any:
        """Bring the body of a chord into its normal form, for its members; return its result."""
        if self._app.servers().joins is None:
            raise ImproperlyConfigured(NO_JOINS)
        result = self.settle(body)
        self._kept += cut_body(body, self._whole)
        return result

    def open(self, gate: Gate) -> None:
        """Open a join before the next slice is sent."""
        self._gates.append(gate)

    def put_plain(
        self,
        members: Sequence[Signature[R]],
        options: Mapping[str, Any],
        *,
        group_id: str,
        first: int,
    ) -> list[AsyncResult[R]]:
        """Send plain calls, which are members of a group, with the next slice."""
        results: list[AsyncResult[R]] = []
        for name, alike in itertools.groupby(members, _task_of):
            index, calls = first + len(results), list(map(_arguments_of, alike))
            call = self._call(name)
            if call.is_uniform:
                messages, route = call.members(
                    calls, options, group_id=group_id, first=index, request=self._request
                )
                self._messages += messages
                self._routes[route.needs] = route
                results += call.results(messages, options)
            else:
                for number, (args, kwargs) in enumerate(calls, index):
                    about = {**options, "group_id": group_id, "group_index": number}
                    results.append(self.put_call(Call(name, tuple(args), kwargs, about)))
        return results

    def put_call(self, planned: Call) -> AsyncResult[Any]:
        """Put one call."""
        call = self._call(planned.task)
        args, kwargs, options = planned.args, planned.kwargs, planned.options
        if call.takes_detour:
            sent: AsyncResult[Any] = call.task.apply_async(
                args, kwargs, **{**options, "add_to_parent": False}
            )
            return sent
        message, route = call.prepared(args, kwargs, options, request=self._request)
        self._messages.append(message)
        self._routes[route.needs] = route
        result: AsyncResult[Any] = call.result(message.id, options)
        return result

    def _call(self, name: str) -> Caller:
        call = self._calls.get(name)
        if call is None:
            call = self._calls[name] = self._app.call_for(name)
        return call

    def flush(self) -> None:
        """Send what was put, a slice in each publish call."""
        self._open_joins()
        messages, self._messages = self._messages, []
        for start in range(0, len(messages), SLICE):
            sent = messages[start : start + SLICE]
            self._app.publisher.publish(
                sent,
                tuple(self._routes.values()),
                deadline_in=self._deadline_in,
                policy=self._policy,
            )
            self.stored += len(sent)
            tell_published(sent)

    def _open_joins(self) -> None:
        """Make what the messages will need: kept windows of chains, and joins."""
        if not self._gates and not self._kept:
            return
        gates, self._gates = self._gates, []
        kept, self._kept = self._kept, []
        servers = self._app.servers()
        keep = joins_expire(self._app.conf.current().values)
        servers.results.put([each.record(keep) for each in kept])
        if servers.joins is not None and gates:
            servers.joins.open([join_of(each, self._request, expires_in=keep) for each in gates])

    def note(self, result: Any) -> None:
        """Count what was sent among the children of the task that runs here."""
        if self._request is not None:
            self._request.children.append(result)


def are_plain(members: Sequence[Any]) -> bool:
    """Tell whether all are calls of a task without options of their own."""
    return set(map(type, members)) == {Signature} and not any(map(_options_of, members))


# --- members of groups and headers


@dataclass(frozen=True, slots=True)
class Partial:
    """What a call adds to all members."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None
    #: Options that outdo those of the members: of what their outcome is for.
    about: Mapping[str, Any] | None = None


def listed(given: tuple[Any, ...], app: Application | None) -> Any:
    """Return the members that were given, one by one or as a collection; an iterator stays one."""
    members: Any = given[0] if len(given) == 1 and not isinstance(given[0], Signature) else given
    if isinstance(members, Mapping):
        members = [members]
    if len(given) == 1 and isinstance(given[0], Signature):
        members = given[0].kwargs["tasks"] if given[0].subtask_type == GROUP else [given[0]]
    if isinstance(members, Iterator):
        return members
    return [maybe_signature(each, app) for each in members]


def app_of(kwargs: dict[str, Any], name: str) -> Application | None:
    """Return the application of the first member; of an iterator it is looked at, not taken."""
    members = kwargs[name]
    if isinstance(members, Iterator):
        taken = list(itertools.islice(members, 1))
        kwargs[name] = itertools.chain(taken, members)
        members = taken
    first = maybe_signature(members[0]) if members else None
    return first.app if isinstance(first, Signature) else None


def slices(kwargs: dict[str, Any], name: str) -> Iterator[list[Any]]:
    """Yield members, a slice at a time; an iterator is read for each, and then spent."""
    members: Iterable[Any] = kwargs[name]
    if isinstance(members, Iterator):
        # Read again it would have no members, and nothing would be sent without a word.
        kwargs[name] = map(_refuse, itertools.repeat(None))
    rest = iter(members)
    while taken := list(itertools.islice(rest, SLICE)):
        yield taken


def _refuse(_: object) -> NoReturn:
    raise RuntimeError(
        "this group was made of a generator, and sent: make it of a list to use it again"
    )


def put_members(
    outbox: Outbox, members: Sequence[Any], partial: Partial, *, group_id: str, first: int
) -> list[AsyncResult[Any]]:
    """Put members into the outbox, the first of which is number ``first``; return their results."""
    options, about = partial.options or {}, partial.about or {}
    if are_plain(members) and not (partial.args or partial.kwargs):
        given = {**options, **about} if about else options
        return outbox.put_plain(members, given, group_id=group_id, first=first)
    signatures = [maybe_signature(each) for each in members]
    if _LINKS.isdisjoint(options) and _are_calls(signatures):
        return _put_calls(outbox, signatures, partial, group_id=group_id, first=first)
    results: list[AsyncResult[Any]] = []
    copies = [each.clone(partial.args, partial.kwargs) for each in signatures]
    for index, member in enumerate(flat(copies), first):
        distribute(member, options)
        results.append(outbox.settle(member, single="chord" in about))
        outbox.put(member, {**about, "group_id": group_id, "group_index": index})
    return results


def _are_calls(signatures: Sequence[Signature[Any]]) -> bool:
    """Tell whether all are calls of single tasks."""
    return {*map(_kind_of, signatures)} == {None} and CHUNKS not in map(_task_of, signatures)


def _put_calls(
    outbox: Outbox,
    members: Sequence[Signature[Any]],
    partial: Partial,
    *,
    group_id: str,
    first: int,
) -> list[AsyncResult[Any]]:
    common, about = partial.options or {}, partial.about or {}
    results: list[AsyncResult[Any]] = []
    for index, member in enumerate(members, first):
        args, kwargs, own = member.merged(partial.args, partial.kwargs, {})
        options = {**common, **own, **about, "group_id": group_id, "group_index": index}
        results.append(outbox.put_call(Call(member["task"], args, kwargs, options)))
    return results


@contextmanager
def telling_what_was_sent(outbox: Outbox) -> Generator[None]:
    """Note in an error how much had been sent before."""
    try:
        yield
    except Exception as error:
        if outbox.stored:
            error.add_note(f"The first {outbox.stored} members of the group were sent.")
        raise
