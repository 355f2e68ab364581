"""Remote control: commands to all workers and what they answer, as kombu's pidbox lays them out.

A command is broadcast to every node; each sees by itself whether it is meant. Who wants answers
names a mailbox in the command, and knows them again by its ticket.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from umbel.exceptions import DecodeError
from umbel.message import Message
from umbel.serializers import JSON_TYPE, json_dumps, json_loads

#: Where commands are broadcast, unless ``control_exchange`` says otherwise.
EXCHANGE = "celery.pidbox"
#: Header of a command that one of ours sent: what it orders stands in the ledger already.
OWN_HEADER = "umbel"

_TRANSIENT = {"delivery_mode": 1}


@dataclass(frozen=True, slots=True)
class Command:
    """One command, as it was sent."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: Names of the nodes meant; empty = all that match, or all.
    destination: tuple[str, ...] = ()
    pattern: str = ""
    #: How the pattern is read: "glob" or "pcre".
    matcher: str = ""
    #: Given back with each answer.
    ticket: str = ""
    #: Exchange and key of the mailbox for answers; empty = none are wanted.
    reply_to: tuple[str, str] = ("", "")
    #: Sent by an umbel.
    ours: bool = False
    #: Where it is broadcast.
    exchange: str = EXCHANGE

    def concerns(self, node: str) -> bool:
        """Tell whether this node is meant."""
        if self.destination:
            return node in self.destination
        if not (self.pattern and self.matcher):
            return True
        if self.matcher == "glob":
            return fnmatch.fnmatch(node, self.pattern)
        try:
            return self.matcher == "pcre" and re.match(self.pattern, node) is not None
        except re.error:
            return False


def control_exchange(name: str) -> str:
    """Return where commands are broadcast when ``control_exchange`` is this name."""
    return f"{name}.pidbox"


def reply_exchange(exchange: str) -> str:
    """Return where mailboxes are bound for the answers to what is broadcast there."""
    return f"reply.{exchange}"


def command_message(command: Command, *, expires_at: float = 0.0) -> Message:
    """Return the message that broadcasts a command. Raises EncodeError."""
    body: dict[str, Any] = {
        "method": command.method,
        "arguments": dict(command.arguments),
        "destination": list(command.destination) or None,
        "pattern": command.pattern or None,
        "matcher": command.matcher or None,
    }
    if command.reply_to[0]:
        exchange, key = command.reply_to
        body["ticket"] = command.ticket
        body["reply_to"] = {"exchange": exchange, "routing_key": key}
    # Whole seconds: AMQP clients differ in whether they can write others.
    headers = {"clock": 1, "expires": int(expires_at), OWN_HEADER: 1}
    return Message("", json_dumps(body), headers, "", command.exchange, properties=_TRANSIENT)


def read_command(message: Message) -> Command | None:
    """Return the command in a message; None if there is none that one could read."""
    body = _object(message)
    method = body.get("method")
    arguments = body.get("arguments") or {}
    destination = body.get("destination") or ()
    reply_to = body.get("reply_to") or {}
    if not (
        isinstance(method, str)
        and isinstance(arguments, dict)
        and isinstance(destination, (list, tuple))
        and isinstance(reply_to, dict)
    ):
        return None
    return Command(
        method,
        arguments,
        tuple(map(str, destination)),
        _text(body.get("pattern")),
        _text(body.get("matcher")),
        _text(body.get("ticket")),
        (_text(reply_to.get("exchange")), _text(reply_to.get("routing_key"))),
        OWN_HEADER in message.headers,
    )


def reply_message(command: Command, node: str, answer: Any) -> Message:
    """Return the message with a node's answer. Raises EncodeError."""
    exchange, key = command.reply_to
    headers = {"ticket": command.ticket, "clock": 1}
    return Message("", json_dumps({node: answer}), headers, key, exchange, properties=_TRANSIENT)


def read_reply(message: Message, ticket: str) -> dict[str, Any]:
    """Return what nodes answered to the command with this ticket, by name; else nothing."""
    return _object(message) if message.headers.get("ticket") == ticket else {}


def revoke_arguments(task_ids: list[str], signal: str) -> dict[str, Any]:
    """Return the arguments of ``revoke``; with a signal, what runs shall be ended by it."""
    return {"task_id": task_ids, "terminate": bool(signal), "signal": signal or None}


def revoked_ids(arguments: Mapping[str, Any]) -> list[str]:
    """Return the ids that ``revoke`` and ``terminate`` name, one or many."""
    named = arguments.get("task_id") or ()
    listed = [named] if isinstance(named, str) else named
    return [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []


def revoke_answer(task_ids: list[str], *, terminate: bool) -> dict[str, str]:
    """Return what a worker answers."""
    if terminate:
        return {"ok": f"terminate: {', '.join(task_ids) or 'tasks unknown'}"}
    return {"ok": f"tasks {set(task_ids)} flagged as revoked"}


def _object(message: Message) -> dict[str, Any]:
    try:
        body = json_loads(message.body) if message.content_type == JSON_TYPE else None
    except DecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
