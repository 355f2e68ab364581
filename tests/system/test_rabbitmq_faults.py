"""A RabbitMQ that fails in every way while workers die under load: no confirmed task is lost.

Results, and the ledger, are on Redis: rpc results end with the server. A longer run:

    UMBEL_CHAOS_ROUNDS=30 pytest -s tests/system/test_rabbitmq_faults.py --timeout 3600
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server as Node
from tests.servers import rabbitmq_server, rabbitmqctl
from tests.sharing import server_directory
from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos, Verdict, worker
from tests.system.chaos.journal import read
from umbel import Umbel
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TimeoutError, TransportError

#: How often every fault is tried.
ROUNDS = int(os.environ.get("UMBEL_CHAOS_ROUNDS", "1"))
#: Seconds until all must have ended, beyond the faults.
PATIENCE = 90.0
#: Beside the server, processes of the worker die too.
GAPS = {"run": 0.0005, "delivery.received": 0.01, "commit.begun": 0.01, "delivery.ending": 0.01}

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240 + 120 * ROUNDS)]


def killed(node: Node) -> None:
    node.kill()
    node.start()


def stopped(node: Node) -> None:
    rabbitmqctl(node.environment, "stop_app")
    rabbitmqctl(node.environment, "start_app")


def everybody_thrown_out(node: Node) -> None:
    rabbitmqctl(node.environment, "close_all_connections", "test")


def short_of_memory(node: Node) -> None:
    rabbitmqctl(node.environment, "set_vm_memory_high_watermark", "0.0000001")
    rabbitmqctl(node.environment, "set_vm_memory_high_watermark", "0.4")


def frozen(node: Node) -> None:
    node.freeze()
    SYSTEM_CLOCK.sleep(1.0)  # the fault is that nothing happens
    node.thaw()


FAULTS: tuple[Callable[[Node], None], ...] = (
    everybody_thrown_out,
    killed,
    everybody_thrown_out,
    stopped,
    short_of_memory,
    frozen,
)


class Load:
    """Sends tasks all the time; knows which were accepted. Its thread sends, others look."""

    def __init__(self, app: Umbel) -> None:
        self._app = app
        self._ended = threading.Event()
        #: Number -> id.
        self.accepted: dict[int, str] = {}
        self.refused: Counter[str] = Counter()

    @contextmanager
    def going_on(self) -> Generator[None]:
        """Send as long as the block lasts."""
        thread = threading.Thread(target=self._send)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _send(self) -> None:
        follow = self._app.signature("chaos.follow")
        number = 0
        while not self._ended.is_set():
            number += 1
            try:
                sent = self._app.send_task("chaos.work", (number,), link=follow)
            except (TransportError, TimeoutError) as error:
                self.refused[type(error).__name__] += 1
            else:
                self.accepted[number] = sent.id


def recovered(chaos: Chaos) -> float:
    """Return how many seconds it takes until tasks run again."""
    began, before = SYSTEM_CLOCK.monotonic(), len(read(chaos.journal).runs)
    harness.wait_until(
        lambda: len(read(chaos.journal).runs) > before + 10, timeout=PATIENCE, why=str
    )
    return SYSTEM_CLOCK.monotonic() - began


def verdict(chaos: Chaos, app: Umbel, accepted: dict[int, str]) -> Verdict:
    """Compare what was accepted with what ran, and what callers would be told."""
    found = app.servers().results.get(list(accepted.values()))
    told: dict[int, tuple[str, Any]] = {}
    for number, task_id in accepted.items():
        meta = json.loads(found.get(task_id, b'{"status": "PENDING", "result": null}'))
        told[number] = meta["status"], meta["result"]
    return harness.verdict(chaos, told, quiet=True)


def test_no_confirmed_task_is_lost(
    redis_url: str, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_RESULT_BACKEND", redis_url)
    # Given a worker whose processes die now and then, and a caller that sends all the time
    with (
        rabbitmq_server(server_directory(run_directory)) as node,
        Umbel("client", broker=node.url, set_as_current=False) as app,
    ):
        chaos, load = Chaos(node.url, tmp_path, GAPS), Load(app)
        with worker(chaos) as process, load.going_on():
            process.wait_until_ready()
            recovered(chaos)
            # When the server fails in every way
            pauses = []
            for fault in FAULTS * ROUNDS:
                fault(node)
                pauses.append(recovered(chaos))
        # Then everything that was confirmed ran, and its result and follow-up are there
        with worker(chaos):
            harness.wait_until(
                lambda: _complete(verdict(chaos, app, load.accepted), load.accepted),
                timeout=PATIENCE,
                why=lambda: str(verdict(chaos, app, load.accepted)),
            )
        found = verdict(chaos, app, load.accepted)
    pauses.sort()
    print(found)
    print(f"{len(pauses)} faults of the server, {dict(load.refused)} refused, recovery in seconds:")
    print(f"p50 {pauses[len(pauses) // 2]:.2f}, most {pauses[-1]:.2f}")
    assert not found.wrong_results
    assert sum(found.account.kills.values()) > 0


def _complete(found: Verdict, accepted: dict[int, str]) -> bool:
    followed = found.account.follow_ups
    return not (found.lost or found.missing_results) and all(str(n) in followed for n in accepted)
