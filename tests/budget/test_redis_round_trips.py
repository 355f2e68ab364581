"""Round trips to Redis: one to publish, whatever the number; two for a batch that is worked off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.engines import running
from umbel import Umbel, group
from umbel.testing.probe import Probe

#: Tasks worked off.
COUNT = 4000
PATIENCE = 60.0


@pytest.fixture
def app(own_redis_url: str) -> Iterator[Umbel]:
    with Umbel("budget", broker=own_redis_url, set_as_current=False) as app:
        yield app


def scripts(own_redis: Any) -> int:
    """Return how many scripts clients ran since the last reset."""
    found = own_redis.info("commandstats")
    return sum(found.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def test_a_call_and_a_group_are_one_round_trip_each(app: Umbel, own_redis: Any) -> None:
    task = app.task(name="noop")(lambda n: n)
    task.delay(0)
    group(task.s(n) for n in range(2)).apply_async()  # the script is known from here on
    own_redis.config_resetstat()
    task.delay(1)
    sent = {
        name for name in own_redis.info("commandstats") if not name.startswith("cmdstat_config")
    }
    assert sent == {"cmdstat_lpush"}
    group(task.s(n) for n in range(COUNT)).apply_async()
    assert scripts(own_redis) == COUNT // 1000  # all of them sent together


def test_a_batch_is_received_and_committed_in_two_round_trips(app: Umbel, own_redis: Any) -> None:
    task = app.task(name="noop")(lambda n: n)
    results = group(task.s(n) for n in range(COUNT)).apply_async()
    own_redis.config_resetstat()
    with Probe() as probe, running(app):
        assert results.get(timeout=PATIENCE) == list(range(COUNT))
        probe.wait_until(lambda: probe.total("delivery.committed") >= COUNT, "all commits")
        received = len(probe.seen("delivery.received"))
        committed = len(probe.seen("delivery.committed"))
    trips = scripts(own_redis)
    print(f"{trips} scripts for {received} batches received and {committed} committed")
    # Beside these: scripts that are new here once more, beginning and ending, looks in vain.
    assert received + committed <= trips <= received + committed + 20
    assert max(received, committed) <= COUNT / 40
