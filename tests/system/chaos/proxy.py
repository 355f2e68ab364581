"""A proxy between programs and their server: it cuts, it stalls, and it swallows replies.

When a reply is swallowed, what was asked for was done. While it stalls, connections are half open:
nothing comes through, and nobody is told.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.servers import free_port


class Proxy:
    """Passes bytes on, both ways. Its threads end with their connections."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._server = (place.hostname or "", place.port or 0)
        port = free_port()
        user, at, _ = place.netloc.rpartition("@")
        self.url = f"{place.scheme}://{user}{at}127.0.0.1:{port}{place.path}"
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._swallows = 0
        self._flows = threading.Event()
        self._flows.set()
        #: Connections that were cut in the place of a reply.
        self.swallowed = 0
        self._ear = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self, count: int) -> None:
        """Cut the next so many connections when their server replies."""
        with self._lock:
            self._swallows = count

    @contextmanager
    def stalling(self) -> Generator[None]:
        """Let nothing through as long as the block lasts."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def cut(self) -> None:
        """Cut all connections now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._close(pair)

    def close(self) -> None:
        """Accept no more, and cut all."""
        self._flows.set()
        self._ear.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._ear.accept()
            except OSError:
                return
            try:
                pair = (client, socket.create_connection(self._server))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.add(pair)
            for target, ends in ((self._requests, pair), (self._replies, pair)):
                threading.Thread(target=target, args=(ends,), daemon=True).start()

    def _requests(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self._flows.wait()
                server.sendall(data)
        self._close(pair)

    def _replies(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with suppress(OSError):
            while (data := server.recv(1 << 16)) and not self._is_swallowed():
                self._flows.wait()
                client.sendall(data)
        self._close(pair)

    def _is_swallowed(self) -> bool:
        with self._lock:
            swallowed = self._swallows > 0
            self._swallows -= swallowed
            self.swallowed += swallowed
        return swallowed

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for each in pair:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
