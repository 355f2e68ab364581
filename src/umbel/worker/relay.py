"""What Celery's programs broadcast, where that passes queues by: the node puts it into a queue.

On Redis they send to a fanout exchange over a channel alone; who does not listen misses it. Ours
send to the queues bound to it as well, so that a broadcast waits for a worker that is busy. The
node listens for its worker and puts what others sent into the worker's own queue. What an umbel
sent is there already: its messages say when they were sent, and others' do not.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from umbel import backoff
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TransportError
from umbel.servers.seams import Bus, Listener, Transport
from umbel.topology import Queue

logger = logging.getLogger("umbel.worker")

#: Longest wait in seconds, and the deadline for putting something into a queue.
LONGEST_WAIT, DEADLINE = 60.0, 30.0
#: Seconds between attempts to reach a server that is gone: first and longest.
RECONNECT, RECONNECT_MOST = 0.1, 5.0


class Relay:
    """Listens for one queue. Its thread owns it; the node starts and stops it."""

    def __init__(self, queue: Queue, *, bus: Bus, transport: Transport) -> None:
        self._queue = queue
        self._bus = bus
        self._transport = transport
        self._listener: Listener | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-relay", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.wake()
        self._thread.join(RECONNECT_MOST)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._pass_on()
                failures = 0
            except TransportError as error:
                failures += 1  # the node itself says that there is an outage
                logger.debug("Broadcasts are not heard: %s", error)
                pause = backoff.exponential(failures, RECONNECT, maximum=RECONNECT_MOST)
                self._stopping.wait(pause)
        if self._listener is not None:
            self._listener.close()

    def _pass_on(self) -> None:
        self._listener = self._listener or self._bus.listen(self._queue.exchange.name)
        others = [
            replace(message, exchange="", routing_key=self._queue.name)
            for message in self._listener.receive(LONGEST_WAIT)
            if not message.sent_at
        ]
        self._transport.publish(others, deadline=SYSTEM_CLOCK.monotonic() + DEADLINE)
