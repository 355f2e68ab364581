"""A thread of the node that hears what is broadcast to an exchange, also after an outage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from umbel import backoff
from umbel.exceptions import TransportError
from umbel.message import Message
from umbel.servers.seams import Bus, Listener

logger = logging.getLogger("umbel.worker")

#: Longest wait for a message in seconds.
LONGEST_WAIT = 60.0
#: Seconds between attempts to reach a server that is gone: first and longest.
RECONNECT, RECONNECT_MOST = 0.1, 5.0


class Listening:
    """Hands what comes to ``hear``. Its thread owns it; the node starts and stops it."""

    def __init__(self, bus: Bus, exchange: str, hear: Callable[[Sequence[Message]], None]) -> None:
        self._bus = bus
        self._exchange = exchange
        self._hear = hear
        self._listener: Listener | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"umbel-listening-{exchange}", daemon=True
        )

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
                self._listener = self._listener or self._bus.listen(self._exchange)
                self._hear(self._listener.receive(LONGEST_WAIT))
                failures = 0
            except TransportError as error:
                failures += 1  # the node itself says that there is an outage
                logger.debug("%s is not heard: %s", self._exchange, error)
                pause = backoff.exponential(failures, RECONNECT, maximum=RECONNECT_MOST)
                self._stopping.wait(pause)
        if self._listener is not None:
            self._listener.close()
