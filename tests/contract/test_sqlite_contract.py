from __future__ import annotations

from pathlib import Path

import pytest

from umbel.testing.clock import FakeClock
from umbel.testing.contract import Backend, ServerContract


class TestSqlite(ServerContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        clock = FakeClock.running()
        url = f"sqlite:///{tmp_path}/queue.sqlite"
        return Backend(url, row="sqlite", clock=clock, options={"clock": clock})
