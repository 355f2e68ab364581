"""From messages to flights: encoded by their caller, sent when what they need exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost, EncodeError, TimeoutError
from umbel.message import Message
from umbel.servers.rabbitmq import delays
from umbel.servers.rabbitmq.channels import Channels, Hub
from umbel.servers.rabbitmq.confirms import Flight, Outgoing
from umbel.servers.rabbitmq.connection import Raw
from umbel.servers.rabbitmq.link import Turn
from umbel.servers.rabbitmq.properties import pack

#: Seconds in which the server must answer orders that have no deadline of their own.
TIMEOUT = 10.0

#: A message, and what our header says of it beyond its fields.
Sending = tuple[Message, Mapping[str, Any]]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_monotonic = SYSTEM_CLOCK.monotonic


class Publishing:
    """Sends messages, and gives orders, over the connection of this process. Thread-safe."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def publish(self, messages: Sequence[Message], deadline: float) -> None:
        """See ``Transport.publish``."""
        self.send([(message, _NOTHING) for message in messages], deadline)

    def send(self, messages: Sequence[Sending], deadline: float) -> None:
        """Publish messages whose header says more than their fields."""
        flight, needs = _prepare(messages, now=self._hub.clock.now())
        here = self._hub.here()
        if any(message.reply_to == here.replies for message, _ in messages):
            needs.replies = here.replies
        if flight.outgoing:
            self._fly(flight, needs, deadline)
        flight.check()

    def order(self, order: Turn[Channels]) -> None:
        """Take a turn. Raises ConnectionLost also when the server does not answer in time."""
        try:
            done = self._hub.here().link.run(order, _monotonic() + TIMEOUT)
        except TimeoutError as error:
            raise ConnectionLost(str(error)) from error
        if not done:
            raise ConnectionLost(f"{self._hub.address.display_url} did not answer in {TIMEOUT} s")

    def _fly(self, flight: Flight, needs: _Needs, deadline: float) -> None:
        under_way: list[Channels] = []

        def begin(channels: Channels, by: float) -> None:
            under_way.append(channels)
            needs.provide(channels, flight, by)
            channels.confirms.send(flight)

        if deadline <= _monotonic():
            raise TimeoutError("the deadline had passed before anything was sent")
        if not self._hub.here().link.run(Turn(begin, lambda: flight.landed), deadline):
            raise TimeoutError(
                f"{self._hub.address.display_url} confirmed {flight.answered} of "
                f"{len(flight.outgoing)} messages in time"
                + "".join(channels.connection.blocked for channels in under_way)
            )


@dataclass(slots=True)
class _Needs:
    """What must exist before a flight: over the first that is missing the channel is closed."""

    exchanges: dict[str, None] = field(default_factory=dict)
    #: Routing key of the delayed message -> where it shall go in the end.
    destinations: dict[str, delays.Address] = field(default_factory=dict)
    #: Seconds of the longest delay.
    longest: int = 0
    replies: str = ""

    def provide(self, channels: Channels, flight: Flight, deadline: float) -> None:
        """Make it exist; refuse the messages of the flight for which that cannot be."""
        if self.replies:
            channels.hear(self.replies, deadline)
        if self.destinations:
            channels.delays.reach(self.longest, deadline)
        missing = {
            name: f"exchange {name!r} does not exist"
            for name in self.exchanges
            if not channels.has_exchange(name, deadline)
        }
        ways = {
            key: channels.delays.lead_to(destination, deadline)
            for key, destination in self.destinations.items()
        }
        for message in list(flight.outgoing) if missing or any(ways.values()) else ():
            reason = ways.get(message.key) or missing.get(message.exchange)
            if reason:
                flight.outgoing.remove(message)
                flight.refuse(message, reason, unroutable=True)


def _prepare(messages: Sequence[Sending], *, now: float) -> tuple[Flight, _Needs]:
    """Encode messages, in the caller's thread; those that cannot be encoded are refused."""
    flight, needs = Flight(), _Needs()
    for message, ours in messages:
        address = (message.exchange, message.routing_key)
        seconds = int(message.not_before - now) if message.not_before else 0
        if seconds >= 1:
            needs.longest = max(needs.longest, seconds)
            destination, address = address, delays.entrance(seconds, address)
            needs.destinations[address[1]] = destination
        elif message.exchange:
            needs.exchanges[message.exchange] = None
        try:
            raw = Raw(pack(message, ours))
        except (EncodeError, OverflowError, ValueError) as error:
            unsent = Outgoing(message.id, *address, b"", Raw(b""))
            flight.refuse(unsent, str(error), unroutable=False)
        else:
            flight.outgoing.append(Outgoing(message.id, *address, message.body, raw))
    return flight, needs
