"""Publishing with confirms: many messages in flight, each answered.

The server answers every message of a confirming channel with an ack or a nack, in batches where it
can, when it is stored; one that leads to no queue comes back before its ack, because it was
``mandatory``. Answers name the message's number on the channel, counted from 1 by both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NamedTuple

from umbel.exceptions import PublishError, Unroutable
from umbel.servers.rabbitmq import properties
from umbel.servers.rabbitmq.connection import Connection, Raw

#: Messages of one flight that are unanswered at a time; bounds what is buffered here.
_IN_FLIGHT = 1000


class Outgoing(NamedTuple):
    """A message in the form in which it is sent."""

    id: str
    exchange: str
    key: str
    body: bytes
    properties: Raw
    #: It comes back if it leads to no queue.
    mandatory: bool = True


class Flight:
    """Messages of one caller on their way. Belongs to whoever drives the connection."""

    def __init__(self, outgoing: Iterable[Outgoing] = ()) -> None:
        self.outgoing = list(outgoing)
        self.refused: list[tuple[str, str]] = []
        self.sent = 0
        self.answered = 0
        self._unroutable_only = True

    @property
    def landed(self) -> bool:
        """Whether all messages are answered."""
        return self.answered == len(self.outgoing)

    def refuse(self, message: Outgoing, reason: str, *, unroutable: bool) -> None:
        self.refused.append((message.id, reason))
        self._unroutable_only = self._unroutable_only and unroutable

    def check(self) -> None:
        """Raise Unroutable or PublishError when messages were refused."""
        if self.refused:
            kind = Unroutable if self._unroutable_only else PublishError
            raise kind("not sent", self.refused)


class Confirms:
    """A confirming channel. Belongs to whoever drives the connection."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection = connection
        self._channel = connection.channel(deadline, vital=True)
        self._channel.add_on_return_callback(self._on_return)
        connection.call(self._channel.confirm_delivery, deadline, ack_nack_callback=self._on_answer)
        self._number = 0
        #: By number, so in the order of sending: whose it is, and whether it came back.
        self._unanswered: dict[int, tuple[Flight, Outgoing]] = {}
        self._returned: set[int] = set()

    def send(self, flight: Flight) -> None:
        """Send as many messages of the flight as may be under way."""
        publish, unanswered = self._channel.basic_publish, self._unanswered
        until = min(len(flight.outgoing), flight.answered + _IN_FLIGHT)
        with self._connection.translating():
            for message in flight.outgoing[flight.sent : until]:
                self._number += 1
                unanswered[self._number] = (flight, message)
                publish(
                    message.exchange,
                    message.key,
                    message.body,
                    message.properties,
                    message.mandatory,
                )
        flight.sent = until

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        taken = method.NAME == "Basic.Ack"
        numbers = [method.delivery_tag]
        if method.multiple:
            last = method.delivery_tag
            numbers = list(takewhile(lambda number: number <= last, self._unanswered))
        for number in numbers:
            self._answer(number, taken=taken)

    def _answer(self, number: int, *, taken: bool) -> None:
        flight, message = self._unanswered.pop(number)
        flight.answered += 1
        if number in self._returned:
            self._returned.discard(number)
            flight.refuse(message, _no_way(message), unroutable=True)
        elif not taken:
            reason = "the server refused it: a queue is full, or it cannot store"
            flight.refuse(message, reason, unroutable=False)
        if flight.sent < len(flight.outgoing) and flight.sent - flight.answered < _IN_FLIGHT // 2:
            self.send(flight)

    def _on_return(self, _channel: Any, method: Any, raw: Raw, body: bytes) -> None:
        task_id = properties.unpack_fields(raw.data).get("correlation_id", "")
        address = (task_id, method.exchange, method.routing_key, body)
        for number, (_, sent) in self._unanswered.items():
            if number not in self._returned and address == (
                sent.id,
                sent.exchange,
                sent.key,
                sent.body,
            ):
                self._returned.add(number)
                return


def _no_way(message: Outgoing) -> str:
    if not message.exchange:
        return f"queue {message.key!r} does not exist"
    return f"exchange {message.exchange!r} leads to no queue for key {message.key!r}"
