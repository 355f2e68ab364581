"""The contract of a server, held by Redis."""

from __future__ import annotations

import pytest

from umbel.ids import new_id
from umbel.testing.contract import Backend, ServerContract


class TestRedis(ServerContract):
    @pytest.fixture
    def backend(self, redis_url: str) -> Backend:
        # Channels know no databases, so a prefix keeps the results of tests apart that run at once.
        # By default 0 is the highest priority, as for Celery's workers; the contract's is 9.
        options = {"highest_priority": 9, "result_keyprefix": new_id()}
        # Time really passes, so the model plays few histories; it plays others each time.
        return Backend(redis_url, row="redis", options=options, short=0.4, histories=4)
