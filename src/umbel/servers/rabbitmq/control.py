"""Orders about exchanges and queues, on a channel of their own: any of them may close it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from umbel.exceptions import TopologyConflict, TransportError
from umbel.servers.rabbitmq.connection import Connection, Refused
from umbel.topology import Binding, Exchange, Queue, Topology

_NOT_FOUND, _LOCKED, _PRECONDITION_FAILED = 404, 405, 406
#: How the server tells what differs.
_UNLIKE = re.compile(r"inequivalent arg '([^']+)'.* received (.+) but current is (.+)")
_VALUE = re.compile(r"'([^']*)'")


class Control:
    """Belongs to one connection, and to whoever drives it. Every call costs one round trip."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Any = None

    def declare(self, topology: Topology, deadline: float) -> None:
        """Make all of it exist. Raises TopologyConflict, or TransportError when not allowed."""
        for exchange in topology.exchanges:
            self._declare_exchange(exchange, deadline)
        for queue in topology.queues:
            self._declare_exchange(queue.exchange, deadline)
            self._declare_queue(queue, deadline)
        names = {queue.name for queue in topology.queues}
        exchanges = {exchange.name for exchange in topology.exchanges} - names
        for binding in topology.bindings:
            self._bind(binding, deadline, to_exchange=binding.queue in exchanges)

    def count(self, queue: str, deadline: float) -> tuple[int, int] | None:
        """Return how many are ready in the queue, and its consumers; None = it does not exist."""
        answer = self._if_there("queue_declare", deadline, queue=queue, passive=True)
        return None if answer is None else (int(answer.message_count), int(answer.consumer_count))

    def has_exchange(self, name: str, deadline: float) -> bool:
        """Tell whether the exchange exists."""
        found = self._if_there("exchange_declare", deadline, exchange=name, passive=True)
        return found is not None

    def purge(self, queue: str, deadline: float) -> int:
        """Delete what is ready in the queue; return how many."""
        answer = self._if_there("queue_purge", deadline, queue=queue)
        return 0 if answer is None else int(answer.message_count)

    def delete(self, queue: str, deadline: float) -> int:
        """Delete a queue with all that is in it; return how many messages were ready."""
        answer = self._if_there("queue_delete", deadline, queue=queue)
        return 0 if answer is None else int(answer.message_count)

    def _declare_exchange(self, exchange: Exchange, deadline: float) -> None:
        if not exchange.name or exchange.name.startswith("amq."):  # the server's own
            return
        with _explaining(f"exchange {exchange.name!r}"):
            self._ask(
                "exchange_declare",
                deadline,
                exchange=exchange.name,
                exchange_type=exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                arguments=dict(exchange.arguments),
            )

    def _declare_queue(self, queue: Queue, deadline: float) -> None:
        with _explaining(f"queue {queue.name!r}"):
            self._ask(
                "queue_declare",
                deadline,
                queue=queue.name,
                durable=queue.durable,
                exclusive=queue.exclusive,
                auto_delete=queue.auto_delete,
                arguments=arguments_of(queue),
            )
        if queue.exchange.name:
            binding = Binding(
                queue.exchange.name, queue.name, queue.routing_key, queue.binding_arguments
            )
            self._bind(binding, deadline)

    def _bind(self, binding: Binding, deadline: float, *, to_exchange: bool = False) -> None:
        order, key = ("exchange_bind", "source") if to_exchange else ("queue_bind", "exchange")
        target = "destination" if to_exchange else "queue"
        with _explaining(f"{binding.queue!r} bound to {binding.exchange!r}"):
            self._ask(
                order,
                deadline,
                routing_key=binding.routing_key,
                arguments=dict(binding.arguments),
                **{key: binding.exchange, target: binding.queue},
            )

    def _if_there(self, order: str, deadline: float, **arguments: Any) -> Any:
        try:
            return self._ask(order, deadline, **arguments)
        except Refused as refused:
            if refused.code == _NOT_FOUND:
                return None
            raise TransportError(refused.text) from refused

    def _ask(self, order: str, deadline: float, **arguments: Any) -> Any:
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel(deadline)
        give: Callable[..., Any] = getattr(self._channel, order)
        return self._connection.call(give, deadline, **arguments)


def arguments_of(queue: Queue) -> dict[str, Any]:
    """Return a queue's arguments as the server names them; times in whole milliseconds."""
    known: Mapping[str, Any] = {
        "x-expires": _milliseconds(queue.expires),
        "x-message-ttl": _milliseconds(queue.message_ttl),
        "x-max-length": queue.max_length,
        "x-max-priority": queue.max_priority,
    }
    given = {name: value for name, value in known.items() if value is not None}
    return {**queue.queue_arguments, **given}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


@contextmanager
def _explaining(what: str) -> Generator[None]:
    try:
        yield
    except Refused as refused:
        if refused.code in (_PRECONDITION_FAILED, _LOCKED):
            raise TopologyConflict(_conflict(what, refused.text)) from refused
        raise TransportError(f"cannot declare {what}: {refused.text}") from refused


def _conflict(what: str, text: str) -> str:
    """Say what exists, what was asked for, and how to solve it."""
    found = _UNLIKE.search(text)
    if found is None:
        return f"{what} cannot be used: {text}"
    name, asked, current = found[1], _value(found[2]), _value(found[3])
    return (
        f"{what} exists with {name} = {current}, and was declared with {name} = {asked}: use the "
        "same in every program, or another name, or delete what exists when it is empty"
    )


def _value(text: str) -> str:
    found = _VALUE.search(text)
    return found[1] if found else text
