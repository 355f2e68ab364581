"""``/livez`` and ``/readyz``: the smallest server that a probe can ask.

By hand, because ``http.server`` would cost every worker a tenth of its start. It knows one kind of
request and closes after each answer. The socket is bound before the first fork, so that an address
in use is an error at the start and a node that is replaced goes on answering.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from umbel.exceptions import ImproperlyConfigured
from umbel.worker.health import Health

#: Seconds that a client has for its request.
TIMEOUT = 2.0
_MOST = 4096

_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


def bind(address: str) -> socket.socket:
    """Listen at a port, ``host:port``, or the path of a Unix socket; raises ImproperlyConfigured.

    A path that is there already is taken over if nobody listens.
    """
    try:
        if "/" in address:
            return _bind_path(address)
        host, _, port = address.rpartition(":")
        return socket.create_server((host.strip("[]"), int(port)), family=_family(host))
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImproperlyConfigured(f"--health {address}: {why}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind_path(path: str) -> socket.socket:
    with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
        raise OSError(f"{path} is in use")
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    os.chmod(path, 0o666)  # noqa: PTH101, S103 -- whoever sees the path may ask how the worker is
    return sock


def serve(sock: socket.socket, health: Callable[[], Health]) -> None:
    """Answer in a thread of its own, until the process ends."""
    args = (sock, health)
    threading.Thread(target=_serve, args=args, name="umbel-health", daemon=True).start()


def _serve(sock: socket.socket, health: Callable[[], Health]) -> None:
    while True:
        client, _ = sock.accept()
        with contextlib.suppress(OSError), client:
            client.settimeout(TIMEOUT)
            client.sendall(answer(client.recv(_MOST), health()))


def answer(request: bytes, health: Health) -> bytes:
    """Return the answer to a request, as bytes of HTTP."""
    method, _, rest = request.decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    good = {"/livez": health.alive, "/readyz": health.ready}.get(path)
    if method not in ("GET", "HEAD"):
        code = 405
    elif good is None:
        code = 404
    else:
        code = 200 if good else 503
    body = health.as_json() if good is not None else "ask for /livez or /readyz\n"
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return (head + (body if method != "HEAD" else "")).encode()
