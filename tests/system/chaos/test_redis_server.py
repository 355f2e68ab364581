"""Redis fails in every way while workers are busy: nothing is lost, and work goes on by itself.

    CHAOS_TASKS=20000 CHAOS_ROUNDS=25 make test PYTEST="-s tests/system/chaos/test_redis_server.py"

is the long run, with a hundred faults and more; without these variables it is short.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import Server, redis_server
from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos, worker
from tests.system.chaos.journal import read
from tests.system.chaos.proxy import Proxy
from tests.system.chaos.test_kills import account_for, assert_nothing_lost, send

TASKS = int(os.environ.get("CHAOS_TASKS", "2500"))
#: How often each kind of fault comes.
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "2"))

pytestmark = pytest.mark.timeout(120 + TASKS // 10)


@pytest.fixture(params=["always", "everysec"])
def server(request: pytest.FixtureRequest, server_directory: Path) -> Iterator[Server]:
    options = ("--appendonly", "yes", "--appendfsync", request.param)
    with redis_server(server_directory, *options) as process:
        yield process


class Faults:
    """What goes wrong, by name."""

    def __init__(self, server: Server, proxy: Proxy, process: harness.WorkerProcess) -> None:
        self._server = server
        self._proxy = proxy
        self._process = process
        self.kinds: dict[str, Callable[[], object]] = {
            "server killed and started": self._restart,
            "connections killed by the server": self._kill_connections,
            "server asleep": self._sleep,
            "connections cut": proxy.cut,
            "replies swallowed": lambda: proxy.swallow(6),
            "child killed": self._kill_child,
        }

    def _restart(self) -> None:
        self._server.kill()
        self._server.start()

    def _kill_connections(self) -> None:
        with redis.Redis.from_url(self._server.url) as admin:
            admin.client_kill_filter(_type="normal", skipme=True)

    def _sleep(self) -> None:
        with redis.Redis.from_url(self._server.url) as admin:
            admin.execute_command("DEBUG", "SLEEP", "0.3")

    def _kill_child(self) -> None:
        if children := self._process.children():
            harness.kill(random.choice(children))


def test_a_server_that_fails_in_every_way_loses_nothing(server: Server, tmp_path: Path) -> None:
    # Given tasks, and a worker that reaches its server through a proxy
    proxy = Proxy(server.url)
    calm = Chaos(server.url, tmp_path, {})
    ids = send(calm, TASKS)
    through = Chaos(proxy.url, tmp_path, {}, slowness=0.004)
    hits: Counter[str] = Counter()
    recoveries: list[float] = []
    with worker(through) as process:
        process.wait_until_ready()
        faults = Faults(server, proxy, process)
        plan = [*faults.kinds] * ROUNDS
        random.shuffle(plan)
        for kind in plan:
            if len(read(calm.journal).runs) >= TASKS - 100:
                break
            # When something fails, with work in flight
            recoveries.append(seconds_until_commit(server, faults.kinds[kind]))
            # Then work goes on by itself
            hits[kind] += 1
            time.sleep(random.uniform(0.0, 0.1))  # no event tells when to fail
        verdict = account_for(calm, ids, timeout=60 + TASKS / 50)
    proxy.close()
    tell(hits, proxy.swallowed, recoveries)
    assert_nothing_lost(verdict)
    assert verdict.quiet
    missed = [kind for kind in faults.kinds if not hits[kind]]
    assert not missed, f"never hit: {missed}"
    assert proxy.swallowed


def seconds_until_commit(server: Server, fault: Callable[[], object]) -> float:
    before, began = committed(server), time.monotonic()
    fault()
    harness.wait_until(
        lambda: committed(server) > before, timeout=30, why=lambda: "nothing is committed"
    )
    return time.monotonic() - began


def committed(server: Server) -> int:
    """Return how many results there are, and a few keys more; 0 while the server is away."""
    try:
        with redis.Redis.from_url(server.url) as admin:
            return int(admin.dbsize())
    except redis.ConnectionError:
        return 0


def tell(hits: Counter[str], swallowed: int, recoveries: list[float]) -> None:
    shown = ", ".join(f"{kind} {count}" for kind, count in sorted(hits.items()))
    print(f"{sum(hits.values())} faults: {shown}; {swallowed} replies swallowed")
    quantiles: list[Any] = statistics.quantiles(recoveries, n=100, method="inclusive")
    print(f"until the next commit: p50 {quantiles[49]:.2f} s, p99 {quantiles[98]:.2f} s")
