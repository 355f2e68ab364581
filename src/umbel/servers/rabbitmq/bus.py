"""Remote control on RabbitMQ: kombu's exchanges, and a queue of its own for whoever hears.

A broadcast goes through a fanout exchange, an answer through a direct one; both belong to nobody in
particular and are declared as Celery's programs do it, unless they are there already. The queue of
a session is exclusive: it vanishes with the connection, which is the one that this process has
anyway, and whoever finds it gone (a new connection, say) makes it again. What was said meanwhile is
not heard; commands are best effort.

Owners. A ``Hearing`` belongs to one thread, except ``wake``; what ``_begin`` and ``_on_message``
change belongs to whoever drives the connection. ``_arrived`` is filled there and emptied by the
owner, by atomic operations.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TimeoutError, TransportError
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.rabbitmq import properties
from umbel.servers.rabbitmq.channels import Channels, Hub
from umbel.servers.rabbitmq.confirms import Flight, Outgoing
from umbel.servers.rabbitmq.connection import Raw
from umbel.servers.rabbitmq.link import Turn
from umbel.servers.rabbitmq.publishing import TIMEOUT, Publishing
from umbel.topology import Binding, Exchange, ExchangeType, Queue, Topology

#: Seconds for which kombu keeps such a queue without a consumer, and a message in it.
_QUEUE_EXPIRES, _MESSAGE_TTL = 10.0, 300.0

_monotonic = SYSTEM_CLOCK.monotonic


class RabbitBus:
    """A ``Bus``. Thread-safe."""

    #: A fanout exchange reaches its queues, whoever sends.
    passes_queues_by = False

    def __init__(self, hub: Hub, publishing: Publishing) -> None:
        self._hub = hub
        self._publishing = publishing

    def broadcast(self, message: Message) -> None:
        self._send(message, "fanout")

    def post(self, message: Message) -> None:
        self._send(message, "direct")

    def listen(self, exchange: str) -> Hearing:
        return Hearing(self._hub, self._publishing, _exchange(exchange, "fanout"), "")

    def mailbox(self, exchange: str, key: str) -> Hearing:
        return Hearing(self._hub, self._publishing, _exchange(exchange, "direct"), key)

    def _send(self, message: Message, kind: ExchangeType) -> None:
        raw = Raw(properties.pack(message))
        outgoing = Outgoing(
            message.id, message.exchange, message.routing_key, message.body, raw, mandatory=False
        )
        flight = Flight([outgoing])

        def begin(channels: Channels, deadline: float) -> None:
            _provide(channels, _exchange(message.exchange, kind), deadline)
            channels.confirms.send(flight)

        self._publishing.order(Turn(begin, lambda: flight.landed))
        flight.check()


class Hearing:
    """A ``Listener`` and a ``Mailbox``. See the essay above for its owners."""

    def __init__(self, hub: Hub, publishing: Publishing, exchange: Exchange, key: str) -> None:
        self._here = hub.here()
        self._exchange = exchange
        self._queue = Queue(
            f"{key or new_id()}.{exchange.name}",
            durable=False,
            exclusive=True,
            auto_delete=True,
            expires=_QUEUE_EXPIRES,
            message_ttl=_MESSAGE_TTL,
        )
        self._binding = Binding(exchange.name, self._queue.name, key)
        #: The connection on which the queue is, and its channel there.
        self._channels: Channels | None = None
        self._channel: Any = None
        self._arrived: deque[Message] = deque()
        self._woken = False
        publishing.order(Turn(self._begin))

    def receive(self, timeout: float) -> list[Message]:
        turn = Turn(self._begin, lambda: self._arrived or self._woken, grace=TIMEOUT)
        self._here.link.run(turn, _monotonic() + timeout)
        self._woken = False
        return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def wake(self) -> None:
        self._woken = True
        self._here.link.wake()

    def close(self) -> None:
        with suppress(TransportError, TimeoutError):  # it ends with the connection
            self._here.link.run(Turn(self._end, connects=False), _monotonic() + TIMEOUT)

    def _begin(self, channels: Channels, deadline: float) -> None:
        """Make the queue, unless it is on this connection already."""
        if self._channels is channels and self._channel.is_open:
            return
        _provide(channels, self._exchange, deadline)
        own = Topology(queues=(self._queue,), bindings=(self._binding,))
        channels.control.declare(own, deadline)
        self._channel = channels.connection.channel(deadline)
        channels.connection.call(
            self._channel.basic_consume,
            deadline,
            queue=self._queue.name,
            on_message_callback=self._on_message,
            auto_ack=True,
        )
        self._channels = channels

    def _end(self, channels: Channels, deadline: float) -> None:
        if self._channels is channels and self._channel.is_open:
            channels.connection.call(self._channel.queue_delete, deadline, queue=self._queue.name)
            self._channel.close()

    def _on_message(self, _channel: Any, method: Any, raw: Raw, body: bytes) -> None:
        arrived = properties.arrive(
            raw.data, body, exchange=method.exchange, routing_key=method.routing_key
        )
        if arrived.problem is None:
            self._arrived.append(arrived.message)


def _exchange(name: str, kind: ExchangeType) -> Exchange:
    return Exchange(name, kind, durable=False)


def _provide(channels: Channels, exchange: Exchange, deadline: float) -> None:
    """Make an exchange exist, whatever its properties are."""
    if not channels.has_exchange(exchange.name, deadline):
        channels.control.declare(Topology(exchanges=(exchange,)), deadline)
