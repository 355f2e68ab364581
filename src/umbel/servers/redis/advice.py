"""What an operator should know about how a Redis server is set up, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from umbel.exceptions import ConnectionLost, TransportError
from umbel.servers.redis.connection import Connections


def warnings(connections: Connections) -> list[str]:
    """Return what is dangerous; nothing where we may not look. Raises ConnectionLost."""
    try:
        facts = _facts(connections.call("INFO"))
    except ConnectionLost:
        raise
    except TransportError:  # an access list, or a provider that hides it
        return []
    return [*_of_memory(facts), *_of_persistence(facts, connections)]


def _of_memory(facts: dict[str, str]) -> Iterator[str]:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return
    what = "results" if policy.startswith("volatile") else "messages and results"
    yield (
        f"it deletes keys when its memory is full (maxmemory-policy {policy}): {what} may be lost. "
        "Set it to noeviction; then sending fails with an error instead"
    )


def _of_persistence(facts: dict[str, str], connections: Connections) -> Iterator[str]:
    if facts.get("aof_enabled") == "1":
        return
    try:
        snapshots = connections.call("CONFIG", "GET", "save")
    except ConnectionLost:
        raise
    except TransportError:
        return
    if not any(snapshots.values()):
        yield (
            "it keeps nothing on disk (appendonly no, save empty): a restart loses all messages "
            "and results. Set appendonly yes"
        )


def _facts(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}
