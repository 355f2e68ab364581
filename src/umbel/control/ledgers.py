"""The ledger that a purpose needs, or one clear error."""

from __future__ import annotations

from umbel.exceptions import ImproperlyConfigured
from umbel.opened import Servers
from umbel.servers.seams import Ledger


def any_ledger(servers: Servers, purpose: str) -> Ledger:
    """Return the ledger, the broker's or the result store's. Raises ImproperlyConfigured."""
    if servers.ledger is None:
        raise ImproperlyConfigured(
            f"{purpose} needs a ledger, and {servers.broker.display_url} has none: set "
            "result_backend to Redis or a SQLite file, which have one"
        )
    return servers.ledger


def letters_ledger(servers: Servers) -> Ledger:
    """Return the ledger in which the broker keeps dead letters. Raises ImproperlyConfigured."""
    ledger = servers.broker.ledger
    if ledger is None:
        raise ImproperlyConfigured(
            f"{servers.broker.display_url} cannot list its dead letters: they are in its queue "
            "umbel.dead, where each tells its reason, queue and time in its headers"
        )
    return ledger
