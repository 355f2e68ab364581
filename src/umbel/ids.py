"""Identifiers: task ids, names of nodes.

A task id is the text of a UUID, as Celery's clients make them, but of version 7 (RFC 9562): it
begins with the time in milliseconds, so that results stored one after the other are neighbours in
an index. With a million results in a SQLite file that is three times the rate of random ids.
"""

from __future__ import annotations

import os
import re

from umbel.clock import SYSTEM_CLOCK

#: Hex digit -> one that says RFC 4122 and keeps its lower two bits.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


_now = SYSTEM_CLOCK.now


def new_id() -> str:
    """Return a new version-7 UUID as text; several times as fast as ``str(uuid.uuid4())``."""
    t, h = f"{int(_now() * 1000):012x}", os.urandom(10).hex()
    return f"{t[:8]}-{t[8:]}-7{h[:3]}-{_VARIANT[h[3]]}{h[4:7]}-{h[7:19]}"


def new_ids(count: int) -> list[str]:
    """Return so many new ids: what costs most, the system call, is made once for all."""
    # Nothing is kept for the next caller: a forked child would give the same ids as its parent.
    t, drawn = f"{int(_now() * 1000):012x}", os.urandom(10 * count)
    prefix = f"{t[:8]}-{t[8:]}-7"
    ids: list[str] = []
    for start in range(0, 10 * count, 10):
        h = drawn[start : start + 10].hex()
        ids.append(f"{prefix}{h[:3]}-{_VARIANT[h[3]]}{h[4:7]}-{h[7:19]}")
    return ids


def node_name(name: str = "umbel@%h") -> str:
    """Expand Celery's node name patterns: %h host with domain, %n host's name, %d domain."""
    host = host_name()
    first, _, domain = host.partition(".")
    words = {"h": host, "n": first, "d": domain, "%": "%"}
    expanded = re.sub("%([hnd%])", lambda found: words[found[1]], name)
    return expanded if "@" in expanded else f"{expanded}@{host}"


def node_path(pattern: str, node: str) -> str:
    """Expand Celery's patterns in a file's name: as in a node's, and of it.

    %n what stands before its @, %h its host, %d its host's domain, %p all of it; %i and %I are for
    files of single processes, which there are none of: 0 and nothing.
    """
    name, _, host = node.partition("@")
    domain = host.partition(".")[2]
    words = {"n": name, "h": host, "d": domain, "p": node, "i": "0", "I": "", "%": "%"}
    return re.sub("%([nhdpiI%])", lambda found: words[found[1]], pattern)


def origin() -> str:
    """Return the ``origin`` header of messages sent by this process: ``gen<pid>@<host>``."""
    return f"gen{os.getpid()}@{host_name()}"


def host_name() -> str:
    """Return what ``socket.gethostname`` does, without the six modules that it takes to import."""
    return os.uname().nodename
