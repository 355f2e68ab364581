"""Redis (6.2 or newer) and Valkey: queues, results and ledger on one server, with Celery's layout.

options ── what URL and options say          keys ── every key there is
connection ── links, and idle ones lent      pieces, scripts ── what the server does in one step
messages ── arguments of the scripts         queues, consumer ── publish and receive
commit ── effects                            results, ledger ── what is kept
joins, joining ── headers of chords          ending ── consumers, and queues that were theirs
unacked ── what Celery's dead held           limits ── of queues that have some
bus ── remote control
places ── which server is the master         advice ── what is dangerous
timetable ── schedules
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umbel.servers.redis import advice
from umbel.servers.redis.bus import RedisBus
from umbel.servers.redis.commit import RedisCommitter
from umbel.servers.redis.connection import Connections
from umbel.servers.redis.joins import RedisJoins
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.ledger import RedisLedger
from umbel.servers.redis.options import parse
from umbel.servers.redis.queues import RedisTransport
from umbel.servers.redis.results import RedisResults
from umbel.servers.redis.timetable import RedisTimetable
from umbel.servers.seams import Committer, Server


class RedisServer(Server):
    """One server. Belongs to the program; any thread."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        parsed = parse(url, options)
        keys = Keys(parsed)
        self.display_url = parsed.display_url
        self.options, self.keys = parsed, keys
        self._connections = Connections(parsed, keys)
        self.transport = RedisTransport(self._connections, keys, parsed)
        self.results = RedisResults(self._connections, keys, parsed)
        self.ledger = RedisLedger(self._connections, keys, parsed.clock)
        self.joins = RedisJoins(self._connections, keys)
        self.timetable = RedisTimetable(self._connections, keys, parsed)
        self.bus = RedisBus(self._connections, keys, parsed)
        self.committer = RedisCommitter(self._connections, keys, parsed)

    def committer_with(self, store: Server) -> Committer | None:
        if not isinstance(store, RedisServer) or store.options.server != self.options.server:
            return None
        databases = (self.options.database, store.options.database)
        return RedisCommitter(
            self._connections,
            self.keys,
            self.options,
            store=store.keys,
            databases=databases if databases[0] != databases[1] else None,
        )

    def warnings(self) -> Sequence[str]:
        return advice.warnings(self._connections)

    def close(self) -> None:
        self._connections.close()


def open_server(url: str, options: dict[str, Any]) -> RedisServer:
    """Return the server behind this URL; no connection is made before the first use."""
    return RedisServer(url, options)
