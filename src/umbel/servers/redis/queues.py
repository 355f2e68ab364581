"""Messages on Redis: publishing, queues, leases and recovery. Every call is one round trip.

Celery's programs push to and pop from the same lists; see ``keys.py`` for the layout. What they do
not do is declare queues, so a queue exists for us when it was declared by an umbel or has messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from umbel.exceptions import (
    ImproperlyConfigured,
    StorageError,
    TimeoutError,
    TopologyConflict,
)
from umbel.message import Message
from umbel.servers.redis import scripts
from umbel.servers.redis.connection import Connections, text
from umbel.servers.redis.consumer import RedisConsumer
from umbel.servers.redis.ending import end
from umbel.servers.redis.finding import Finder
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.limits import Limits
from umbel.servers.redis.messages import Arguments, Packer
from umbel.servers.redis.options import Options
from umbel.servers.redis.unacked import Unacked
from umbel.servers.seams import Capabilities, DeadConsumer, Depth, Place
from umbel.topology import Binding, Exchange, Queue, Topology, all_bindings
from umbel.wire.envelope import unpack

#: Messages, and bytes of them, that one call of a script stores; more is several calls in the same
#: round trip, so that no script keeps the server from others for long.
MOST_MESSAGES = 1000
MOST_BYTES = 4 << 20

CAPABILITIES = Capabilities(
    commit="atomic",
    delay_precision=0.001,
    exchange_types=frozenset({"direct", "topic", "fanout"}),
    priorities=4,
    dead_letters=True,
    durable_ledger=True,
    stored="in the server's memory, and on its disk as its persistence (AOF, RDB) is configured",
    finds="about",
)


class RedisTransport:
    """Messages. Any thread."""

    capabilities = CAPABILITIES

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._keys = keys
        self._options = options
        self._clock = options.clock
        self._packer = Packer(options, keys)
        self._unacked = Unacked(connections, keys, options)
        self._limits = Limits(connections, keys, options)
        #: Queues that exist, are never deleted, and take any number of messages.
        self._declared: set[str] = set()
        self._fanouts: set[str] = set()

    def declare(self, topology: Topology) -> None:
        keys = self._keys
        exchanges = {each.name: each.type for each in _exchanges(topology)}
        for name, kind in exchanges.items():
            if kind not in CAPABILITIES.exchange_types:
                raise ImproperlyConfigured(f"exchange {name!r} is {kind}, which Redis has not")
        queues = {each.name: _properties(each, keys) for each in topology.queues}
        lasting = {each.name for each in topology.queues if each.expires is None}
        bindings = [
            (each.exchange, self._member(each, exchanges), "1" if each.queue in lasting else "")
            for each in all_bindings(topology)
        ]
        arguments: Arguments = [keys.bindings, keys.permanent_bindings, len(exchanges), len(queues)]
        for pairs in (exchanges, queues):
            arguments += chain.from_iterable(pairs.items())
        arguments += chain.from_iterable(bindings)
        both = (keys.exchanges, keys.queues)
        (conflict,) = self._connections.run(scripts.DECLARE, both, [arguments])
        if conflict:
            name, old, new = map(text, conflict)
            raise TopologyConflict(f"{name!r} exists already, as {old} and not as {new}")
        self._fanouts.update(name for name, kind in exchanges.items() if kind == "fanout")
        self._declared.update(each.name for each in topology.queues if _is_plain(each))

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        if self._clock.monotonic() >= deadline:
            raise TimeoutError("the deadline had passed before anything was sent")
        if not messages or (len(messages) == 1 and self._push(messages[0], deadline)):
            return
        batches = list(self._batches(messages))
        replies = self._connections.run(
            scripts.PUBLISH, self._packer.keys, [each for _, each in batches], deadline=deadline
        )
        refused = [
            (messages[first + number], text(reason))
            for (first, _), reply in zip(batches, replies, strict=True)
            for number, reason in zip(reply[::2], reply[1::2], strict=True)
        ]
        if self._fanouts:
            heard = self._broadcast(messages, deadline)
            refused = [(each, reason) for each, reason in refused if id(each) not in heard]
        if refused:
            raise self._packer.refusal(refused)

    def _push(self, message: Message, deadline: float) -> bool:
        """Store a message by a plain command, if it is for a queue that we declared, and at once.

        A script takes the server, and us, half as long again. Tell whether it is stored; what is
        wrong with it, or with its list, the script says.
        """
        if message.exchange or message.not_before or message.routing_key not in self._declared:
            return False
        *_, suffix, delay, envelope = self._packer.message(message)
        if delay != "0":
            return False
        try:
            key = f"{self._keys.prefix}{message.routing_key}{suffix}"
            self._connections.call("LPUSH", key, envelope, deadline=deadline)
        except StorageError:
            return False
        return True

    def _broadcast(self, messages: Sequence[Message], deadline: float) -> set[int]:
        """Tell Celery's programs, who get what goes to a fanout exchange over its channel.

        Return the identities of those that somebody heard.
        """
        heard: set[int] = set()
        for message in messages:
            if message.exchange in self._fanouts:
                channel = self._keys.channel(message.exchange, message.routing_key)
                *_, envelope = self._packer.message(message)
                if self._connections.call("PUBLISH", channel, envelope, deadline=deadline):
                    heard.add(id(message))
        return heard

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> RedisConsumer:
        return RedisConsumer(
            self._connections,
            self._keys,
            self._options,
            queues,
            consumer_id=consumer_id,
            lease=lease,
        )

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        if not consumer_ids:
            return []
        arguments: Arguments = [int(lease * 1_000_000), *consumer_ids]
        (lost,) = self._connections.run(scripts.RENEW, [self._keys.leases], [arguments])
        return [text(each) for each in lost]

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        keys = self._keys
        count = 0
        for each in dead:
            tags = self._tags(each.consumer_id, each.running) if each.running else []
            about: Arguments = [each.consumer_id, each.verdict, *tags]
            count += end(self._connections, keys, scripts.END_CONSUMER, about)
        count += end(self._connections, keys, scripts.RECOVER, ()) + self._unacked.restore()
        self._limits.keep()
        return count

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        keys = self._keys
        per_queue = len(keys.receive_order)
        arguments: Arguments = [keys.held, keys.delayed, keys.served, per_queue]
        for queue in queues:
            arguments += [queue, *keys.lists(queue)]
        (rows,) = self._connections.run(scripts.DEPTH, [keys.queues, keys.leases], [arguments])
        return {
            text(name): Depth(ready, delayed, held, _oldest(envelopes), consumers)
            for name, ready, delayed, held, consumers, envelopes in rows
        }

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        return Finder(self._connections, self._keys, self._clock, task_id).find(queues)

    def queues(self) -> Sequence[str]:
        return sorted(text(each) for each in self._connections.call("HKEYS", self._keys.queues))

    def bindings(self) -> Sequence[Binding]:
        """See ``seams.Transport.bindings``. Celery's programs bind in the same tables."""
        call, keys = self._connections.call, self._keys
        names = [text(each) for each in call("HKEYS", keys.exchanges)]
        members = {name: call("SMEMBERS", keys.bindings + name) for name in names}
        return [
            Binding(name, queue, key)
            for name, bound in members.items()
            for key, _, queue in (text(each).split(keys.separator) for each in bound)
        ]

    def purge(self, queues: Sequence[str]) -> int:
        lists = [key for queue in queues for key in self._keys.lists(queue)]
        pairs = [each for key in lists for each in (key, self._keys.delayed + key)]
        (count,) = self._connections.run(scripts.PURGE, pairs, [()])
        return int(count)

    def close(self) -> None:
        self._connections.close()

    def _batches(self, messages: Sequence[Message]) -> Iterator[tuple[int, Arguments]]:
        """Yield the arguments of each call and the number of its first message."""
        first, size = 0, 0
        arguments: Arguments = [*self._packer.start]
        for number, message in enumerate(messages):
            packed = self._packer.message(message)
            if number - first == MOST_MESSAGES or (size and size + len(packed[4]) > MOST_BYTES):
                yield first, arguments
                first, size = number, 0
                arguments = [*self._packer.start]
            arguments += packed
            size += len(packed[4])
        yield first, arguments

    def _member(self, binding: Binding, exchanges: Mapping[str, str]) -> str:
        """Return a binding as kombu keeps it; its clients route by the regular expression."""
        topic = exchanges.get(binding.exchange) == "topic"
        pattern = _regular_expression(binding.routing_key) if topic else ""
        return self._keys.separator.join((binding.routing_key, pattern, binding.queue))

    def _tags(self, consumer_id: str, task_ids: Collection[str]) -> list[bytes]:
        """Return the tags of those messages that a consumer holds."""
        held = self._connections.call("HGETALL", self._keys.held + consumer_id)
        return [tag for tag, envelope in held.items() if unpack(envelope)[0].id in task_ids]


def _exchanges(topology: Topology) -> Iterable[Exchange]:
    named = chain(topology.exchanges, (each.exchange for each in topology.queues))
    return (each for each in named if each.name)


def _is_plain(queue: Queue) -> bool:
    ends = queue.auto_delete or queue.exclusive or queue.expires is not None
    return not ends and queue.max_length is None


def _properties(queue: Queue, keys: Keys) -> str:
    """Return what may not differ when a queue is declared again."""
    kept: dict[str, Any] = {
        "lists": keys.lists(queue.name) if queue.max_length is not None else None,
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "auto_delete": queue.auto_delete,
        "expires": queue.expires,
        "message_ttl": queue.message_ttl,
        "max_length": queue.max_length,
        "max_priority": queue.max_priority,
        "arguments": dict(queue.queue_arguments),
    }
    defaults = {"durable": True, "exclusive": False, "auto_delete": False, "arguments": {}}
    changed = {name: value for name, value in kept.items() if value != defaults.get(name)}
    return json.dumps(changed, sort_keys=True, default=repr)


def _regular_expression(pattern: str) -> str:
    wild = {"*": r"[^\.]+", "#": ".*?"}
    words = (wild.get(word, re.escape(word)) for word in pattern.split("."))
    return "^" + r"\.".join(words) + "$"


def _oldest(envelopes: Sequence[bytes]) -> float | None:
    sent = [unpack(each)[0].sent_at for each in envelopes]
    return min((at for at in sent if at), default=None)
