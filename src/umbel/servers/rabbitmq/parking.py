"""Long tasks and the server's ``consumer_timeout``: what is held too long is parked.

RabbitMQ closes the channel of a consumer that does not acknowledge a message within its
``consumer_timeout`` (30 minutes unless its operator says otherwise), and gives everything that was
held there to others: a task that takes longer would run again and again and never end. AMQP has no
way to say "still at it". So at half of that time a message is *parked*: a copy goes, confirmed,
into a queue of its own, then the original is acknowledged. That queue is a lease:

    umbel.parked.<id> ──nobody renewed it for LEASE s: expires──> the queue it came from
                      ──renewed: a copy in a new queue, then this one is deleted
                      ──its task ended: deleted

Deleting a queue tells how many messages were in it: none means that the lease was over, so that
end comes too late, and is reported as such. A parked message depends on no connection any more.

The timeout is what the option ``consumer_timeout`` says, and else what the server says when it
first strikes (``learn``); then the work that was under way is done once more.

Owners. A ``Parking`` belongs to a consumer. Its keeper parks and renews, the consumer's thread ends
and gives back; both hold ``lock`` from the look at what is held until the change is made, and take
it before they take a turn of a link, never in one.

Rejected: ``basic.recover`` or giving back and taking again (the message is then anybody's); a queue
argument or policy with a longer timeout (RabbitMQ 3.12 and later only; Celery's programs declare
queues without).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost, PublishError, TimeoutError
from umbel.ids import new_id
from umbel.message import Delivery
from umbel.servers.rabbitmq.channels import Channels, Hub
from umbel.servers.rabbitmq.link import Turn
from umbel.servers.rabbitmq.properties import AGAIN, moved_from
from umbel.servers.rabbitmq.publishing import TIMEOUT, Publishing
from umbel.topology import Queue, Topology

logger = logging.getLogger("umbel.worker")

#: Seconds until a parked message goes back if its process does not renew it, and between renewals.
LEASE, RENEW = 120.0, 30.0
#: Seconds that RabbitMQ waits for an acknowledgement, unless it is configured otherwise.
CONSUMER_TIMEOUT = 1800.0

_TIMED_OUT = re.compile(r"acknowledgement on channel \d+ timed out.*?(\d+) ms", re.DOTALL)

_monotonic = SYSTEM_CLOCK.monotonic


class Hold(NamedTuple):
    """``Delivery.tag``: which session holds the message, and its number there."""

    intake: Any
    number: int


@dataclass(slots=True)
class _Lot:
    delivery: Delivery
    queue: str
    #: Monotonic times.
    renew_at: float
    until: float


class Parking:
    """See the essay above."""

    def __init__(self, hub: Hub, publishing: Publishing) -> None:
        self.lock = threading.Lock()
        self._hub = hub
        self._publishing = publishing
        self._lots: dict[Hold, _Lot] = {}

    @property
    def after(self) -> float:
        """Seconds after which a held message must be parked."""
        return self._hub.consumer_timeout / 2

    def learn(self, trouble: ConnectionLost | None) -> None:
        """See whether a connection broke because of the timeout."""
        found = _TIMED_OUT.search(str(trouble))
        if found is None:
            return
        self._hub.consumer_timeout = int(found[1]) / 1000
        logger.warning(
            "RabbitMQ took back what was held, because a message was not acknowledged within its "
            "consumer_timeout of %g s; what was running runs again. From now on longer tasks are "
            "kept elsewhere in time. Set broker_transport_options={'consumer_timeout': %g}, so "
            "that this is known from the start",
            self._hub.consumer_timeout,
            self._hub.consumer_timeout,
        )

    def park(self, delivery: Delivery) -> None:
        """Keep a copy. With ``lock``; the original has to be acknowledged then."""
        self._lots[delivery.tag] = self._copied(delivery)

    def renew(self) -> None:
        """Renew what is parked and due for it."""
        with self.lock:
            for tag, lot in list(self._lots.items()):
                if lot.renew_at <= _monotonic() < lot.until:
                    renewed = self._lots[tag] = self._copied(lot.delivery)
                    if not self._delete([lot.queue]):  # it went back, and one copy is enough
                        del self._lots[tag]
                        self._delete([renewed.queue])

    def holds(self, tag: Hold) -> bool:
        """Tell whether it is parked, and still ours."""
        lot = self._lots.get(tag)
        return lot is not None and _monotonic() < lot.until

    def end(self, tags: Iterable[Hold]) -> int:
        """Delete what is parked of these; return how many were lost. With ``lock``."""
        lots = [lot for tag in tags if (lot := self._lots.pop(tag, None))]
        return len(lots) - self._delete([lot.queue for lot in lots]) if lots else 0

    def give_back(self, tags: Iterable[Hold] | None = None) -> int:
        """Return these, or all, to their queues at once; tell how many. With ``lock``."""
        count = 0
        for tag in list(self._lots) if tags is None else tags:
            lot = self._lots.pop(tag, None)
            if lot is not None and _monotonic() < lot.until:
                self._send(lot.delivery, lot.delivery.queue)
                count += self._delete([lot.queue])
        return count

    def _copied(self, delivery: Delivery) -> _Lot:
        queue = Queue(
            f"umbel.parked.{new_id()}",
            message_ttl=LEASE,
            expires=LEASE * 10,  # deletes itself long after the message has left
            queue_arguments={
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": delivery.queue,
            },
        )
        now = _monotonic()
        self._order(lambda channels, by: channels.control.declare(Topology(queues=(queue,)), by))
        self._send(delivery, queue.name)
        return _Lot(delivery, queue.name, now + RENEW, now + LEASE)

    def _send(self, delivery: Delivery, queue: str) -> None:
        copy = replace(delivery.message, exchange="", routing_key=queue, not_before=0.0)
        header = {**moved_from(delivery.message), AGAIN: True}
        try:
            self._publishing.send([(copy, header)], _monotonic() + TIMEOUT)
        except (PublishError, TimeoutError) as error:
            raise ConnectionLost(f"the server did not take a copy: {error}") from error

    def _delete(self, queues: Sequence[str]) -> int:
        """Delete parking queues; return how many had their message still."""
        counts: list[int] = []

        def delete(channels: Channels, deadline: float) -> None:
            counts.extend(channels.control.delete(queue, deadline) for queue in queues)

        self._order(delete)
        return sum(counts)

    def _order(self, order: Any) -> None:
        self._publishing.order(Turn(order))
