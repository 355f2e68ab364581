"""What is to be sent after a request: its messages, and the joins that begin with them.

Signatures that follow came in a message, so whatever is wrong with one ends here, as ``Unable``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from umbel import states
from umbel.canvas.plan import (
    CHAIN,
    CHUNKS,
    NO_JOINS,
    Call,
    Node,
    chain_of,
    join_of,
    links_of,
    outline,
    plan,
    settle,
)
from umbel.canvas.windows import CONTINUE, continuations
from umbel.exceptions import ImproperlyConfigured, TaskRevokedError
from umbel.ids import new_id
from umbel.message import Join, Message, Outcome, ResultRecord
from umbel.wire.errors import exception_to_wire
from umbel.wire.result import task_tuple
from umbel.wire.saferepr import bounded_repr
from umbel.wire.task import Request

#: Characters of an exception in the reason why a message is among the dead letters.
REASON = 300


class Unable(Exception):
    """Nothing can follow from this outcome; ``outcome`` is what it becomes instead."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


#: (what is to be sent, the request that causes it) -> its message
MessageFor = Callable[[Call, Request], Message]


@dataclass(frozen=True, slots=True)
class Policy:
    """What advancing needs to know of the application; compiled once per worker."""

    message_for: MessageFor
    #: The node's name, stored with extended results.
    worker: str = ""
    extended: bool = False
    #: (the request that causes them, their number) -> the id of a follow-up that was given none.
    #: For servers whose commit is ordered: a repeat is recognisable by it. None = a random one.
    derived_id: Callable[[Request, int], str] | None = None
    #: There is a place for joins, so that chords can be sent.
    joins: bool = True
    #: Seconds until one that waits for members may be forgotten; None = never.
    joins_expire: float | None = 86400.0
    #: Links of the longest chain that is sent whole; 0 = all are.
    whole_chain: int = 0


@dataclass(slots=True)
class Following:
    """What is to be sent after a request."""

    request: Request
    policy: Policy
    messages: list[Message] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    children: list[Any] = field(default_factory=list)
    results: list[ResultRecord] = field(default_factory=list)
    named: int = 0

    def new_id(self) -> str:
        """Return an id for what was given none."""
        self.named += 1
        derived_id = self.policy.derived_id
        return new_id() if derived_id is None else derived_id(self.request, self.named - 1)

    def add(self, node: Any, *args: Any) -> None:
        """Send a signature with these arguments in front."""
        if node.get("subtask_type") is None and node.get("task") != CHUNKS:
            self._add_task(node, args, {})
            return
        with unsendable(node):
            self.settle(node)
            self.children.append(outline(node))
            self.add_settled(node, *args)

    def add_link(self, chain: Sequence[Any], value: Any) -> None:
        """Send the next link of a chain, which is the last element (wire-protocol 5.3)."""
        *rest, following = chain
        if following.get("subtask_type") is None and following.get("task") != CHUNKS:
            self._add_task(following, (value,), {"chain": rest or None})
            return
        with unsendable(following):
            node = chain_of([following, *rest[::-1]])
            self.settle(node)
            begun = links_of(node)[0] if node["subtask_type"] == CHAIN else node
            self.children.append(outline(begun))
            self.add_settled(node, value)

    def settle(self, node: Node, *, single: bool = False) -> None:
        """Give what has none an id."""
        settle(node, self.new_id, reply_to=self.request.reply_to, single=single)

    def add_settled(self, node: Node, *args: Any) -> None:
        """Send what a settled workflow begins with."""
        made = plan(node, args, whole=self.policy.whole_chain)
        self.results += [each.record(self.policy.joins_expire) for each in made.kept]
        if made.gates and not self.policy.joins:
            raise ImproperlyConfigured(NO_JOINS)
        self.joins += [
            join_of(each, self.request, expires_in=self.policy.joins_expire) for each in made.gates
        ]
        self.messages += [self.policy.message_for(each, self.request) for each in made.calls]

    def _add_task(self, node: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        with unsendable(node):
            own = node.get("args") or ()
            merged = {**(node.get("options") or {}), **options}
            if node["task"] == CONTINUE:
                merged.update(self._here())
            if not merged.get("task_id"):
                merged["task_id"] = self.new_id()
            arguments = tuple(own) if node.get("immutable") else (*args, *own)
            call = Call(node["task"], arguments, node.get("kwargs") or {}, merged)
            message = self.policy.message_for(call, self.request)
            self.messages.append(message)
            self.children.append(task_tuple(message.id))

    def give_up(self, nodes: Sequence[Any], error: BaseException | None) -> None:
        """Have the rest of chains fail that these tasks would have gone on with."""
        failed = exception_to_wire(error or TaskRevokedError())
        for each in continuations(nodes):
            with suppress(Unable), unsendable(each):
                kwargs = {**each["kwargs"], "failed": failed}
                call = Call(CONTINUE, (), kwargs, {**each["options"], **self._here()})
                self.messages.append(self.policy.message_for(call, self.request))

    def _here(self) -> dict[str, Any]:
        """Return where the request came from: there is a worker of ours."""
        info = self.request.delivery_info or {}
        return {name: info[name] for name in ("exchange", "routing_key") if info.get(name)}


@contextmanager
def unsendable(node: Mapping[str, Any]) -> Generator[None]:
    """Raise Unable for whatever is wrong with a signature: it came in a message."""
    try:
        yield
    except Exception as error:
        name, shown = bounded_repr(node.get("task"), 127), bounded_repr(error, REASON)
        reason = f"its follow-up {name} cannot be sent: {shown}"
        raise Unable(Outcome(states.FAILURE, error=error, dead=reason)) from error
