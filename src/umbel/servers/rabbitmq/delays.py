"""Delayed messages wait in the server, in quorum queues whose messages expire into the next.

A delay of whole seconds is written as 28 binary digits into the routing key. For each digit there
is a level: a topic exchange that passes a message with a 1 into a queue where it expires after 2**n
seconds, and one with a 0 on to the next level at once:

    umbel.delay.n ──1──> queue umbel.delay.n ──after 2**n s──> umbel.delay.(n-1) … ──> umbel.due
                  ──0──────────────────────────────────────> umbel.delay.(n-1)

A message enters at the level of its highest 1, so only levels that were ever needed exist. At the
end stands one queue for each destination, found by a token behind the digits, where a message
expires at once into its real exchange with its real routing key: so every type of exchange works,
receivers (of Celery too) see the address that the sender gave, and a message whose destination is
gone waits. Quorum queues with dead-lettering "at-least-once" lose nothing when the server dies in
between.

What is left below a second is waited out by the worker that receives it (``delay_precision``).

Rejected: an expiry per message in one queue (the first message holds up those behind it); a queue
for each distinct delay (without bound); classic queues (they hand on without confirms); Celery's
own network (``celery_delayed_27``), which knows topic exchanges only and delivers its digits.
"""

from __future__ import annotations

import hashlib

from umbel.servers.rabbitmq.control import Control
from umbel.topology import Binding, Exchange, Queue, Topology

#: 2**28 seconds are eight years.
LEVELS = 28
LONGEST = 2**LEVELS - 1
_FINAL = Exchange("umbel.due", "topic")

#: Where a message shall go in the end: exchange and routing key.
Address = tuple[str, str]


def entrance(seconds: int, destination: Address) -> Address:
    """Return where a message is sent that shall wait so long."""
    level = min(seconds, LONGEST).bit_length() - 1
    digits = ".".join(f"{min(seconds, LONGEST):0{LEVELS}b}")
    return _level(level).name, f"{digits}.{_token(destination)}"


class Delays:
    """What of the network is known to exist. Belongs to one connection."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._levels = 0
        self._destinations: set[Address] = set()

    def reach(self, seconds: int, deadline: float) -> None:
        """Make the levels exist that a delay of so many seconds passes."""
        needed = min(seconds, LONGEST).bit_length()
        while self._levels < needed:
            self._control.declare(_level_topology(self._levels), deadline)
            self._levels += 1

    def lead_to(self, destination: Address, deadline: float) -> str:
        """Make the way to a destination exist; return why there is none ("" = there is)."""
        if destination in self._destinations:
            return ""
        exchange, key = destination
        if exchange and not self._control.has_exchange(exchange, deadline):
            return f"exchange {exchange!r} does not exist"
        if not exchange and self._control.count(key, deadline) is None:
            return f"queue {key!r} does not exist"
        self._control.declare(_destination_topology(destination), deadline)
        self._destinations.add(destination)
        return ""


def _level(number: int) -> Exchange:
    return Exchange(f"umbel.delay.{number}", "topic") if number >= 0 else _FINAL


def _level_topology(number: int) -> Topology:
    here, below = _level(number), _level(number - 1)
    stars = "*." * (LEVELS - 1 - number)
    queue = _waiting_room(here.name, 2**number, below.name)
    return Topology(
        (here, below),
        (queue,),
        (
            Binding(here.name, queue.name, f"{stars}1.#"),
            Binding(here.name, below.name, f"{stars}0.#"),
        ),
    )


def _destination_topology(destination: Address) -> Topology:
    exchange, key = destination
    token = _token(destination)
    queue = _waiting_room(f"umbel.due.{token}", 0, exchange, key)
    return Topology((_FINAL,), (queue,), (Binding(_FINAL.name, queue.name, f"#.{token}"),))


def _waiting_room(name: str, seconds: int, then: str, key: str | None = None) -> Queue:
    arguments: dict[str, object] = {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": then,
    }
    if key is not None:
        arguments["x-dead-letter-routing-key"] = key
    return Queue(name, message_ttl=float(seconds), queue_arguments=arguments)


def _token(destination: Address) -> str:
    return hashlib.sha256("\0".join(destination).encode()).hexdigest()[:32]
