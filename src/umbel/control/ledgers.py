"""The ledger that a purpose needs, or one clear error."""

from __future__ import annotations

from umbel.exceptions import ImproperlyConfigured
from umbel.opened import Servers
from umbel.servers.seams import Ledger


def ledger_for(purpose: str, servers: Servers) -> Ledger:
    """Return the ledger. Raises ImproperlyConfigured if there is none."""
    if servers.ledger is None:
        raise ImproperlyConfigured(
            f"{purpose} need a ledger, and {servers.broker.display_url} has none: set ledger_url "
            "to Redis or a SQLite file, for the workers too"
        )
    return servers.ledger
