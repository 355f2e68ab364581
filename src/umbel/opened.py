"""The servers an application talks to, opened when first needed.

``Opened`` belongs to its application and is used by all threads. It opens again when the settings
that name the servers have changed; what was open then is closed. Opening connects to nothing, and
the servers themselves survive a fork, so a child goes on with what it inherits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from umbel import servers
from umbel.addresses import Address, broker_address, result_address
from umbel.bridge import ResultBridge
from umbel.bridge.process import call_after_fork
from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ContentDisallowed, ImproperlyConfigured
from umbel.serializers import accepted, get
from umbel.servers.companion import Accompanied
from umbel.servers.ordered import OrderedCommit, SettlingByCommit
from umbel.servers.seams import Committer, Joins, Ledger, ResultStore, Server
from umbel.wire.control import EXCHANGE, control_exchange
from umbel.wire.result import decode_meta


@dataclass(frozen=True, slots=True)
class Servers:
    """The opened servers of an application."""

    broker: Server
    results: ResultStore
    ledger: Ledger | None
    committer: Committer
    #: They are beside the results, as Celery has them.
    joins: Joins | None
    #: The server of the results, where it is another than the broker.
    store: Server | None = None
    #: The server of the ledger, where it is another than the broker.
    companion: Server | None = None
    #: Where remote control is broadcast.
    control_exchange: str = EXCHANGE

    def ledger_for(self, purpose: str) -> Ledger:
        """Return the ledger. Raises ImproperlyConfigured if there is none for this purpose."""
        if self.ledger is None:
            raise ImproperlyConfigured(
                f"{purpose} need a ledger, and {self.broker.display_url} has none: set ledger_url "
                "to Redis or a SQLite file, for the workers too"
            )
        return self.ledger

    def warnings(self) -> list[str]:
        """Return what is dangerous about how they are set up, for operators. May connect."""
        every = (self.broker, self.store, self.companion)
        found = {server.display_url: server for server in every if server is not None}
        return [f"{url}: {said}" for url, server in found.items() for said in server.warnings()]


@dataclass(frozen=True, slots=True)
class _Places:
    """What settings say of servers, and of how results are read."""

    broker: Address
    results: Address | None
    ledger: str | None
    serializer: str
    accept: tuple[str, ...] | None
    control: str


@dataclass(frozen=True, slots=True)
class _Open:
    #: The newest that are known to say these places.
    settings: Mapping[str, Any]
    places: _Places
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
        if found is not None and found.settings is settings:
            return found
        with self._opening:
            places, former = _places(settings), self._open
            if former is not None and former.places == places:
                found = self._open = replace(former, settings=settings)
                return found
            opened = _servers(places)
            bridge = ResultBridge(opened.results, decode=_decoder(places))
            found = self._open = _Open(settings, places, opened, bridge)
        if former is not None:
            _close(former)
        return found


def _places(settings: Mapping[str, Any]) -> _Places:
    return _Places(
        broker_address(settings),
        result_address(settings),
        settings["ledger_url"],
        settings["result_serializer"],
        settings["result_accept_content"],
        control_exchange(settings["control_exchange"]),
    )


def _servers(places: _Places) -> Servers:
    broker = servers.open(places.broker.url, places.broker.options)
    store = companion = None
    if places.results is not None:
        store = servers.open(places.results.url, places.results.options)
    if broker.ledger is None:
        companion = store if places.ledger is None else servers.open(places.ledger, {})
    if companion is not None and companion.ledger is not None:
        broker = Accompanied(broker, companion.ledger, companion.timetable)
    committer, joins = broker.committer, broker.joins
    if store is not None:
        joins = store.joins
        committer = broker.committer_with(store) or OrderedCommit(
            broker.transport,
            store.results,
            SettlingByCommit(broker.committer),
            joining=store.committer if joins is not None else None,
        )
    return Servers(
        broker,
        (store or broker).results,
        broker.ledger,
        committer,
        joins,
        store,
        companion,
        places.control,
    )


def _decoder(places: _Places) -> Callable[[bytes], dict[str, Any]]:
    """Return what reads a stored result; compressed ones say so themselves."""
    serializer = get(places.serializer)
    if places.accept is not None and serializer.content_type not in accepted(places.accept):
        allowed = ", ".join(places.accept)

        def refuse(_data: bytes) -> dict[str, Any]:
            raise ContentDisallowed(
                f"results are {serializer.content_type}, result_accept_content allows {allowed}"
            )

        return refuse
    if places.serializer == "json":
        return decode_meta
    return partial(decode_meta, loads=serializer.loads)


def _close(found: _Open) -> None:
    found.bridge.close()
    for server in (found.servers.companion, found.servers.store, found.servers.broker):
        if server is not None:
            server.close()
