"""How deliveries end, step by step, for an ordered commit.

Acknowledging is not answered by the server: when it is written, the delivery is ended as far as we
are concerned, and if the connection breaks before it arrived the message is delivered again.
Putting a message elsewhere (behind the others, among the dead) is a copy, confirmed, and then the
end of the original; between the two it exists twice, never not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost, PublishError, TimeoutError
from umbel.message import Delivery
from umbel.servers.rabbitmq.channels import Hub
from umbel.servers.rabbitmq.link import Turn
from umbel.servers.rabbitmq.parking import Hold
from umbel.servers.rabbitmq.properties import moved_from
from umbel.servers.rabbitmq.publishing import TIMEOUT, Publishing
from umbel.telemetry import emit
from umbel.topology import Queue, Topology

#: Where dead letters are without a ledger: their header has the reason, the queue and the time.
DEAD = Topology(queues=(Queue("umbel.dead"),))

_monotonic = SYSTEM_CLOCK.monotonic


class RabbitSettling:
    """``Settling`` for ``OrderedCommit``. Used by the thread that owns the consumer."""

    def __init__(self, hub: Hub, publishing: Publishing) -> None:
        self._hub = hub
        self._publishing = publishing

    def holds(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        for intake in {each.tag.intake for each in deliveries}:
            intake.link.serve()  # a connection that broke is noticed now
        return [_holds(each.tag) for each in deliveries]

    def end(self, deliveries: Sequence[Delivery]) -> int:
        return sum(
            self._end(intake, [each.tag for each in deliveries if each.tag.intake is intake])
            for intake in {each.tag.intake for each in deliveries}
        )

    def _end(self, intake: Any, tags: Sequence[Hold]) -> int:
        with intake.parking.lock:
            held = [tag.number for tag in tags if intake.open and tag.number in intake.held]
            emit("delivery.ending", count=len(held))
            if held:
                intake.end(held)
            parked = [tag for tag in tags if intake.parking.holds(tag)]
            lost: int = intake.parking.end(parked)
        return len(tags) - len(held) - len(parked) + lost

    def requeue(self, deliveries: Sequence[Delivery]) -> int:
        self._copy([(each, each.queue, {}) for each in deliveries if _holds(each.tag)])
        return self.end(deliveries)

    def bury(self, deliveries: Sequence[tuple[Delivery, str]]) -> int:
        order = Turn[Any](lambda channels, by: channels.control.declare(DEAD, by))
        self._publishing.order(order)
        now = self._hub.clock.now()
        self._copy(
            [
                (
                    each,
                    DEAD.queues[0].name,
                    {"reason": reason, "queue": each.queue, "died_at": now},
                )
                for each, reason in deliveries
                if _holds(each.tag)
            ]
        )
        return self.end([each for each, _ in deliveries])

    def _copy(self, copies: Sequence[tuple[Delivery, str, Mapping[str, Any]]]) -> None:
        """Publish copies to these queues; they remember where the originals were sent."""
        sending = [
            (
                dataclasses.replace(each.message, exchange="", routing_key=queue, not_before=0.0),
                {**moved_from(each.message), **ours},
            )
            for each, queue, ours in copies
        ]
        try:
            self._publishing.send(sending, _monotonic() + TIMEOUT)
        except (PublishError, TimeoutError) as error:
            raise ConnectionLost(f"the server did not take a copy: {error}") from error


def _holds(tag: Hold) -> bool:
    intake = tag.intake
    return (intake.open and tag.number in intake.held) or intake.parking.holds(tag)
