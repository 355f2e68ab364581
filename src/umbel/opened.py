"""The servers an application talks to, opened when first needed.

``Opened`` belongs to its application and is used by all threads. It opens again when the settings
that name the servers have changed; what was open then is closed. Opening connects to nothing, and
the servers themselves survive a fork, so a child goes on with what it inherits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from umbel import servers
from umbel.bridge import ResultBridge
from umbel.bridge.process import call_after_fork
from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.serializers import get
from umbel.servers.ordered import OrderedCommit, SettlingByCommit
from umbel.servers.seams import Committer, Ledger, ResultStore, Server
from umbel.wire.result import decode_meta

#: The settings that say which servers these are, and how their results are read.
_SETTINGS = (
    "broker_url",
    "broker_transport_options",
    "result_backend",
    "result_backend_transport_options",
    "result_serializer",
)


@dataclass(frozen=True, slots=True)
class Servers:
    """The opened servers of an application."""

    broker: Server
    results: ResultStore
    ledger: Ledger | None
    committer: Committer
    #: The server of the results, where it is another than the broker.
    store: Server | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    places: tuple[Any, ...]
    servers: Servers
    bridge: ResultBridge


def clock_of(settings: Mapping[str, Any]) -> Clock:
    """Return the clock of the broker: due times are counted by it. Only tests choose another."""
    clock: Clock = settings["broker_transport_options"].get("clock", SYSTEM_CLOCK)
    return clock


class Opened:
    """Opens servers once for each set of settings that names them."""

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._opening = threading.Lock()
        call_after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        # A thread that the child does not have may have held it.
        self._opening = threading.Lock()

    def servers(self, settings: Mapping[str, Any]) -> Servers:
        """Return the servers that these settings name."""
        return self._get(settings).servers

    def bridge(self, settings: Mapping[str, Any]) -> ResultBridge:
        """Return what waits for results on them."""
        return self._get(settings).bridge

    def close(self) -> None:
        """Close all connections. The next use opens them again."""
        with self._opening:
            found, self._open = self._open, None
        if found is not None:
            _close(found)

    def _get(self, settings: Mapping[str, Any]) -> _Open:
        found = self._open
        places = tuple(settings[name] for name in _SETTINGS)
        if found is not None and found.places == places:
            return found
        with self._opening:
            found, former = self._open, None
            if found is None or found.places != places:
                opened = open_servers(settings)
                former = found
                bridge = ResultBridge(opened.results, decode=_decoder(settings))
                found = self._open = _Open(places, opened, bridge)
        if former is not None:
            _close(former)
        return found


def _decoder(settings: Mapping[str, Any]) -> Callable[[bytes], dict[str, Any]]:
    """Return what reads a stored result; compressed ones say so themselves."""
    if settings["result_serializer"] == "json":
        return decode_meta
    return partial(decode_meta, loads=get(settings["result_serializer"]).loads)


def open_servers(settings: Mapping[str, Any]) -> Servers:
    """Open the broker and, where it is another, the result store that these settings name."""
    url = settings["broker_url"]
    broker_url = (url if isinstance(url, str) else url[0]).split(";")[0]
    result_url = settings["result_backend"]
    broker = servers.open(broker_url, settings["broker_transport_options"])
    if not result_url or result_url == broker_url or result_url.startswith("rpc:"):
        return Servers(broker, broker.results, broker.ledger, broker.committer)
    store = servers.open(result_url, settings["result_backend_transport_options"])
    committer = OrderedCommit(broker.transport, store.results, SettlingByCommit(broker.committer))
    return Servers(broker, store.results, broker.ledger or store.ledger, committer, store)


def _close(found: _Open) -> None:
    found.bridge.close()
    if found.servers.store is not None:
        found.servers.store.close()
    found.servers.broker.close()
