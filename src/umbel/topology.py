"""Exchanges, queues and bindings of the AMQP 0-9-1 model: values, and how a key is matched.

Servers without exchanges of their own (SQLite, Redis, memory) keep bindings and resolve a message's
exchange and routing key to queues with the functions here, so that routing means the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ExchangeType = Literal["direct", "topic", "fanout", "headers"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where messages are sent to; it passes them on to the queues bound to it."""

    name: str = ""
    type: ExchangeType = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """Where messages wait. ``exchange`` and ``routing_key`` are its first binding, if not empty."""

    name: str
    exchange: Exchange = field(default_factory=Exchange)
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    #: Seconds without a consumer after which the queue is deleted with its messages; None = never.
    expires: float | None = None
    #: Seconds a message may wait in it; None = for ever.
    message_ttl: float | None = None
    max_length: int | None = None
    max_priority: int | None = None
    #: Further arguments as the server knows them (``x-queue-type``, …).
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)
    binding_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """A queue (or exchange, on servers that can) takes from an exchange what matches the key."""

    exchange: str
    queue: str
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topology:
    """What shall exist on a server. Declaring it again changes nothing."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


def all_bindings(topology: Topology) -> Iterator[Binding]:
    """Return the first bindings of queues, then the others."""
    for queue in topology.queues:
        if queue.exchange.name:
            yield Binding(
                queue.exchange.name, queue.name, queue.routing_key, queue.binding_arguments
            )
    yield from topology.bindings


def topic_matches(pattern: str, routing_key: str) -> bool:
    """Tell whether a topic pattern takes a key: ``*`` is one word, ``#`` any number, also none."""
    return _words_match(tuple(pattern.split(".")), tuple(routing_key.split(".")))


def _words_match(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    # reachable[i] = the pattern so far can end before word i
    reachable = [True] + [False] * len(words)
    for part in pattern:
        if part == "#":
            first = reachable.index(True) if True in reachable else len(reachable)
            reachable = [i >= first for i in range(len(reachable))]
        else:
            stepped = (
                ok and part in ("*", word) for ok, word in zip(reachable, words, strict=False)
            )
            reachable = [False, *stepped]
    return reachable[-1]


def route(
    exchange_type: str, bindings: Iterable[tuple[str, str]], routing_key: str
) -> tuple[str, ...]:
    """Return the names of the queues that take this key, each once, in the order of binding.

    ``bindings`` are pairs (bound key, queue name) of one exchange.
    """
    match exchange_type:
        case "fanout":
            taken = [queue for _, queue in bindings]
        case "topic":
            taken = [queue for key, queue in bindings if topic_matches(key, routing_key)]
        case _:
            taken = [queue for key, queue in bindings if key == routing_key]
    return tuple(dict.fromkeys(taken))
