"""What systemd is told (``Type=notify``): ready, stopping, and that the worker is alive."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from umbel.clock import SYSTEM_CLOCK


class Notifier:
    """Talks to systemd if it listens, else to nobody. Owned by the supervisor."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        #: Seconds between two pings; 0 = nobody waits for them.
        self._period = 0.0
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._period = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 / 3
        self._ping_at = 0.0

    def ready(self, node: str) -> None:
        """Say that it is ready."""
        self._send(f"READY=1\nSTATUS={node} is ready")

    def stopping(self, *, restarting: bool) -> None:
        """Say that it is stopping, for good or to start anew."""
        if restarting:
            since = int(SYSTEM_CLOCK.monotonic() * 1e6)
            self._send(f"RELOADING=1\nMONOTONIC_USEC={since}\nSTATUS=starting anew")
        else:
            self._send("STOPPING=1\nSTATUS=finishing what runs")

    def turn(self, now: float, *, alive: bool) -> None:
        """Ping the watchdog, if it is time and the worker is alive."""
        if self._period and alive and now >= self._ping_at:
            self._ping_at = now + self._period
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), self._address)
