"""What a process keeps of a server: one connection for publishing, orders and replies.

Hub ── Here (one for each process after a fork) ─┬─ Link ── Channels ─┬─ Control   orders
                                                 │                    ├─ Confirms  publishing
                                                 │                    ├─ Delays    known levels
                                                 │                    └─ replies   rpc results
                                                 └─ Mailbox           results that arrived
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import DecodeError
from umbel.ids import new_id
from umbel.servers.rabbitmq import properties
from umbel.servers.rabbitmq.address import Address
from umbel.servers.rabbitmq.confirms import Confirms
from umbel.servers.rabbitmq.connection import Connection, Raw
from umbel.servers.rabbitmq.control import Control
from umbel.servers.rabbitmq.delays import Delays
from umbel.servers.rabbitmq.link import Link
from umbel.servers.rabbitmq.mailbox import Mailbox
from umbel.topology import Queue, Topology
from umbel.wire.names import OWN

#: Milliseconds for which the server keeps the replies of a client that is gone.
_REPLIES_EXPIRE = 86_400_000


class Channels:
    """The channels of one connection. Belongs to whoever drives it."""

    def __init__(self, connection: Connection, mailbox: Mailbox, deadline: float) -> None:
        self.connection = connection
        self.control = Control(connection)
        self.confirms = Confirms(connection, deadline)
        self.delays = Delays(self.control)
        #: Exchanges and queues that were seen to exist since the connection was made.
        self.known: set[str] = set()
        self._mailbox = mailbox
        self._replies: Any = None

    def has_exchange(self, name: str, deadline: float) -> bool:
        """Tell whether an exchange exists; asked once. To publish to none costs the channel."""
        if name in self.known:
            return True
        if self.control.has_exchange(name, deadline):
            self.known.add(name)
            return True
        return False

    def hear(self, queue: str, deadline: float) -> None:
        """Make the queue of our replies exist and receive from it."""
        if self._replies is not None:
            return
        channel = self.connection.channel(deadline, vital=True)
        self.connection.call(
            channel.queue_declare,
            deadline,
            queue=queue,
            durable=True,
            # Celery's deletes itself when its connection breaks, with the replies in it.
            auto_delete=False,
            arguments={"x-expires": _REPLIES_EXPIRE, "x-queue-type": "classic"},
        )
        self.connection.call(
            channel.basic_consume,
            deadline,
            queue=queue,
            on_message_callback=self._on_reply,
            auto_ack=True,
        )
        self._replies = channel

    def catch_up(self, queue: str, deadline: float) -> None:
        """Return when all replies have arrived that the server had before.

        The server answers the first order before the replies that it found in the queue by then;
        they come before the answer to the second.
        """
        self.hear(queue, deadline)
        for _ in range(2):
            order = self._replies.queue_declare
            self.connection.call(order, deadline, queue=queue, passive=True)

    def _on_reply(self, _channel: Any, _method: Any, raw: Raw, body: bytes) -> None:
        try:
            fields = properties.unpack_fields(raw.data)
        except DecodeError:
            return  # nobody can be waiting for it: it names no task
        own = (fields.get("headers") or {}).get(OWN)
        own = own if isinstance(own, dict) else {}
        expires_at = own.get(properties.EXPIRES)
        self._mailbox.put(
            fields.get("correlation_id", ""),
            body,
            state=str(own.get(properties.STATE, "")),
            expires_at=expires_at if isinstance(expires_at, float) else None,
        )


@dataclass(slots=True, eq=False)
class Here:
    """What belongs to one process."""

    link: Link[Channels]
    mailbox: Mailbox
    #: Our queue for replies; nobody else's, and a forked child has its own.
    replies: str
    #: The queue was made, so that others may be told of it.
    heard: bool = False


class Hub:
    """Hands each process what is its own. Thread-safe, without a lock that a fork could break."""

    def __init__(
        self, address: Address, *, consumer_timeout: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.address = address
        self.clock = clock
        #: Seconds that the server waits for an acknowledgement, as far as we know.
        self.consumer_timeout = consumer_timeout
        self._of_process: dict[int, Here] = {}
        #: Queues that only one connection may use, so their consumer declares them; by name.
        self.exclusive: dict[str, Topology] = {}
        #: Queues that this process and its parents declared.
        self.declared: dict[str, Queue] = {}

    def here(self) -> Here:
        """Return this process's part."""
        pid = os.getpid()
        here = self._of_process.get(pid)
        if here is None:
            # Of two threads that are the first at once, one loses its part unused.
            here = self._of_process.setdefault(pid, self._make())
        return here

    def _make(self) -> Here:
        mailbox = Mailbox(self.clock)

        def open_session(deadline: float) -> Channels:
            name = f"umbel publisher {os.getpid()}"
            connection = Connection(self.address, name=name, heartbeat=0, deadline=deadline)
            return Channels(connection, mailbox, deadline)

        return Here(Link(open_session), mailbox, new_id())
