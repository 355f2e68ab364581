"""The contract suites against the memory server: as it is, in pairs, and beset by faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from umbel import servers
from umbel.clock import Clock
from umbel.ids import new_id
from umbel.servers.ordered import OrderedCommit, SettlingByCommit
from umbel.servers.seams import Committer, Joins, Ledger, ResultStore, Server, Transport
from umbel.servers.timetable import Timetable
from umbel.testing.clock import FakeClock
from umbel.testing.contract import (
    Backend,
    CommitContract,
    FaultContract,
    JoinContract,
    LeaseContract,
    LedgerContract,
    ModelContract,
    ResultContract,
    ServerContract,
)
from umbel.testing.flaky import DELAY, DUPLICATE, Fault, FlakyServer, chance


class TestMemory(ServerContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return memory(lambda server: server, FakeClock.running())


class TestTwoMemories(
    CommitContract, LeaseContract, LedgerContract, JoinContract, ModelContract, FaultContract
):
    """One is the broker, another the result store: an ordered commit between them."""

    @pytest.fixture
    def backend(self) -> Backend:
        clock = FakeClock.running()
        store = servers.open(f"memory://{new_id()}", {"clock": clock})
        return memory(lambda broker: Pair(broker, store, clock), clock)


class TestRepeatingMemory(
    CommitContract, LeaseContract, LedgerContract, JoinContract, ResultContract, ModelContract
):
    """Every request that may be repeated often is, and all of them are slow."""

    @pytest.fixture
    def backend(self) -> Backend:
        often: dict[Fault, float] = {DUPLICATE: 0.5, Fault("delay", 0.001): 0.2}
        repeatable = "put forget revoke announce retire acquire release renew give_back declare"
        rates = {"*": {DELAY: 0.02}, **dict.fromkeys(repeatable.split(), often)}
        return memory(lambda server: FlakyServer(server, chance(5, rates)), FakeClock.running())


class Pair:
    """Two servers as an application with different broker and result store has them."""

    def __init__(self, broker: Server, store: Server, clock: Clock) -> None:
        self.display_url = f"{broker.display_url} + {store.display_url}"
        self.transport: Transport = broker.transport
        self.transport.capabilities = replace(broker.transport.capabilities, commit="ordered")
        self.results: ResultStore = store.results
        self.ledger: Ledger | None = broker.ledger
        self.bus = broker.bus
        self.committer: Committer = OrderedCommit(
            broker.transport,
            store.results,
            SettlingByCommit(broker.committer),
            clock=clock,
            joining=store.committer,
        )
        self.joins: Joins | None = store.joins
        self.timetable: Timetable | None = broker.timetable
        self.warnings = broker.warnings
        self.committer_with = broker.committer_with
        self.close = broker.close


def memory(wrap: Callable[[Server], Server], clock: Clock) -> Backend:
    return Backend(
        f"memory://{new_id()}",
        row="memory",
        clock=clock,
        options={"clock": clock},
        quiet=0.02,
        across_processes=False,
        wrap=wrap,
    )
