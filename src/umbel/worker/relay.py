"""What Celery's programs broadcast, where that passes queues by: the node puts it into a queue.

On Redis they send to a fanout exchange over a channel alone; who does not listen misses it. Ours
send to the queues bound to it as well, so that a broadcast waits for a worker that is busy. The
node listens for its worker and puts what others sent into the worker's own queue. What an umbel
sent is there already: its messages say when they were sent, and others' do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Message
from umbel.servers.seams import Bus, Transport
from umbel.topology import Queue
from umbel.worker.listening import Listening

#: Seconds until putting something into a queue is given up.
DEADLINE = 30.0


class Relay:
    """Listens for one queue; the node starts and stops it."""

    def __init__(self, queue: Queue, *, bus: Bus, transport: Transport) -> None:
        self._queue = queue
        self._transport = transport
        listening = Listening(bus, queue.exchange.name, self._pass_on)
        self.start, self.stop = listening.start, listening.stop

    def _pass_on(self, messages: Sequence[Message]) -> None:
        others = [
            replace(message, exchange="", routing_key=self._queue.name)
            for message in messages
            if not message.sent_at
        ]
        self._transport.publish(others, deadline=SYSTEM_CLOCK.monotonic() + DEADLINE)
