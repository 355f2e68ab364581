"""A server far away: a proxy that keeps what a server replies for a while before it passes it on.

    python -m bench.distance HOST:PORT SECONDS    prints its own port

One thread, in a process of its own, so that it takes nothing from what is measured but its share of
the machine. Every reply is late by the same time, so the queue of what is kept is in order.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque

#: Bytes read at once.
READ = 1 << 18


class Distance:
    """Between programs and a server. One thread."""

    def __init__(self, server: tuple[str, int], seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._ear = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._ear.getsockname()[1])
        #: Either end of a connection -> the other.
        self._other: dict[socket.socket, socket.socket] = {}
        self._servers = set[socket.socket]()
        #: When to pass on, to whom, and what.
        self._kept = deque[tuple[float, socket.socket, bytes]]()

    def serve(self) -> None:
        """Pass bytes on, for ever."""
        while True:
            left = max(self._kept[0][0] - time.monotonic(), 0.0) if self._kept else None
            for ready in select.select([self._ear, *self._other], [], [], left)[0]:
                if ready is self._ear:
                    self._accept()
                elif ready in self._other:
                    self._read(ready)
            while self._kept and self._kept[0][0] <= time.monotonic():
                _, end, data = self._kept.popleft()
                self._pass(end, data)

    def _accept(self) -> None:
        client, server = self._ear.accept()[0], socket.create_connection(self._server)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._other |= {client: server, server: client}
        self._servers.add(server)

    def _read(self, end: socket.socket) -> None:
        try:
            data = end.recv(READ)
        except OSError:
            data = b""
        if not data:
            self._close(end)
        elif end in self._servers:
            self._kept.append((time.monotonic() + self._seconds, self._other[end], data))
        else:
            self._pass(self._other[end], data)

    def _pass(self, end: socket.socket, data: bytes) -> None:
        if end not in self._other:
            return  # closed meanwhile
        try:
            end.sendall(data)
        except OSError:
            self._close(end)

    def _close(self, end: socket.socket) -> None:
        other = self._other.pop(end)
        del self._other[other]
        self._servers -= {end, other}
        end.close()
        other.close()


def main() -> None:
    """Print the port, and serve."""
    host, _, port = sys.argv[1].rpartition(":")
    distance = Distance((host, int(port)), float(sys.argv[2]))
    print(distance.port, flush=True)
    distance.serve()


if __name__ == "__main__":
    main()
