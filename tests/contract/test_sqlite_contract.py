"""The contract suites against SQLite: as it is, and with every repeatable request repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.servers.seams import Server
from umbel.testing.clock import FakeClock
from umbel.testing.contract import (
    Backend,
    CommitContract,
    LeaseContract,
    LedgerContract,
    ModelContract,
    ResultContract,
    ServerContract,
)
from umbel.testing.flaky import DELAY, DUPLICATE, Fault, FlakyServer, chance

REPEATABLE = "put forget revoke announce retire acquire release renew give_back declare"


class TestSqlite(ServerContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return sqlite(tmp_path)


class TestSqliteWithFsync(CommitContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return sqlite(tmp_path, query="?synchronous=FULL")


class TestRepeatingSqlite(
    CommitContract, LeaseContract, LedgerContract, ResultContract, ModelContract
):
    """Every request that may be repeated often is, and all of them are slow."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        often: dict[Fault, float] = {DUPLICATE: 0.5, Fault("delay", 0.001): 0.2}
        rates = {"*": {DELAY: 0.02}, **dict.fromkeys(REPEATABLE.split(), often)}
        return sqlite(tmp_path, wrap=lambda server: FlakyServer(server, chance(5, rates)))


def sqlite(
    folder: Path, *, query: str = "", wrap: Callable[[Server], Server] = lambda server: server
) -> Backend:
    clock = FakeClock.running()
    return Backend(
        f"sqlite:///{folder}/queue.sqlite{query}",
        row="sqlite",
        clock=clock,
        options={"clock": clock},
        wrap=wrap,
    )
