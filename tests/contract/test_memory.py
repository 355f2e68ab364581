"""The contract suites against the memory server."""

from __future__ import annotations

import pytest

from umbel.ids import new_id
from umbel.testing.clock import FakeClock
from umbel.testing.contract import Backend, ServerContract


class TestMemory(ServerContract):
    @pytest.fixture
    def backend(self) -> Backend:
        clock = FakeClock.running()
        return Backend(
            f"memory://{new_id()}",
            row="memory",
            clock=clock,
            options={"clock": clock},
            across_processes=False,
        )
