"""RabbitMQ: ``amqp://user:password@host:port/vhost``, several with ``;``, ``amqps://`` for TLS.

    address ── connection ── link ─┬─ channels ─┬─ control · delays   what exists
                                   │            ├─ confirms · publishing
                                   │            ├─ mailbox · results  (rpc)
                                   │            └─ bus                remote control
                                   └─ consumer ── parking ── commit
    tables ── properties             queues: the transport ── management

It has real exchanges, confirms what it stores, and pushes; it has no place for a ledger and no
transaction over queues and results, so its commit is ordered (``servers.ordered``).
"""

from __future__ import annotations

from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.servers.ordered import OrderedCommit
from umbel.servers.rabbitmq import address, management
from umbel.servers.rabbitmq.bus import RabbitBus
from umbel.servers.rabbitmq.channels import Hub
from umbel.servers.rabbitmq.commit import RabbitSettling
from umbel.servers.rabbitmq.consumer import HEARTBEAT
from umbel.servers.rabbitmq.parking import CONSUMER_TIMEOUT
from umbel.servers.rabbitmq.publishing import Publishing
from umbel.servers.rabbitmq.queues import RabbitTransport
from umbel.servers.rabbitmq.results import RabbitResults
from umbel.servers.seams import Server


class RabbitServer(Server):
    """A ``Server`` without a ledger; results go to their callers (``rpc://``)."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        hub = Hub(
            address.read(url, options),
            consumer_timeout=float(options.get("consumer_timeout") or CONSUMER_TIMEOUT),
            clock=options.get("clock", SYSTEM_CLOCK),
        )
        self.display_url = hub.address.display_url
        publishing = Publishing(hub)
        heartbeat = int(options.get("heartbeat", HEARTBEAT))
        user, password = hub.address.credentials
        told = management.read(options, user=user, password=password, vhost=hub.address.vhost)
        self.transport = RabbitTransport(hub, publishing, heartbeat=heartbeat, management=told)
        self._replies = RabbitResults(hub, publishing)
        self.results = self._replies
        self.ledger = None
        self.bus = RabbitBus(hub, publishing)
        self.joins = None
        self.timetable = None
        settling = RabbitSettling(hub, publishing)
        self.committer = OrderedCommit(self.transport, self.results, settling)

    def close(self) -> None:
        self._replies.retire()
        self.transport.close()


def open_server(url: str, options: dict[str, Any]) -> Server:
    """Return the server of this URL; nothing is connected yet."""
    return RabbitServer(url, options)
