"""Workers on Redis, killed or frozen at every gap: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import DeadConsumer, Server
from umbel.topology import Queue, Topology

ROOT = Path(__file__).parents[2]
#: Seconds until what must happen fails the test.
PATIENCE = 60.0


class WorkerProcess:
    """One worker of `redis_worker`, and what it said."""

    def __init__(
        self,
        url: str,
        *,
        lease: float = 600.0,
        patience: float = 0.2,
        gap: str = "",
        chance: float = 1,
    ) -> None:
        self.consumer_id = f"worker-{new_id()}"
        words = [url, "work", "after", self.consumer_id, lease, patience, gap, chance]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.redis_worker", *map(str, words)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.output: IO[bytes] = self.process.stdout
        #: Lines read by `until`.
        self.said: list[list[str]] = []

    def until(self, word: str) -> list[str]:
        """Read on until it says this; return the line."""
        while not self.said or self.said[-1][0] != word:
            line = self.output.readline()
            assert line, f"the worker ended before it said {word!r}"
            self.said.append(line.decode().split())
        return self.said[-1]

    def rest(self) -> list[list[str]]:
        """Wait for its end and return all it said."""
        self.said += [line.decode().split() for line in self.output.read().splitlines()]
        self.kill()
        return self.said

    def kill(self) -> None:
        """End it at once, if it has not ended. Idempotent."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.output.close()


def running(said: list[list[str]]) -> tuple[str, ...]:
    """Return what a worker had begun and not committed: what a supervisor reads from its board."""
    begun: list[str] = []
    for word, *task_ids in said:
        if word == "running":
            begun += task_ids
        elif word == "committed":
            begun = []
    return tuple(begun)


@pytest.fixture
def start(redis_url: str) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers, and kills those that a failing test leaves."""
    with ExitStack() as stack:

        def begin(**how: Any) -> WorkerProcess:
            worker = WorkerProcess(redis_url, **how)
            stack.callback(worker.kill)
            return worker

        yield begin


@pytest.fixture
def server(redis_url: str) -> Iterator[Server]:
    server = servers.open(redis_url)
    server.transport.declare(Topology(queues=(Queue("work"), Queue("after"))))
    yield server
    server.close()


def send(server: Server, count: int) -> list[str]:
    messages = [Message(new_id(), b"[[], {}, {}]", {}, "work") for _ in range(count)]
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    server.transport.publish(messages, deadline=deadline)
    return [each.id for each in messages]


def follow_ups(server: Server) -> Counter[str]:
    """Count the follow-ups of each task."""
    consumer = server.transport.consume(["after"], consumer_id=new_id(), lease=60.0)
    counts: Counter[str] = Counter()
    while batch := consumer.receive(1000, timeout=0.1):
        counts.update(each.message.id.removeprefix("after-").rpartition("-")[0] for each in batch)
    consumer.close()
    return counts


def test_call_run_get(server: Server, start: Callable[..., WorkerProcess]) -> None:
    # Given a worker in another process, and a caller who watches for a result
    worker = start(patience=PATIENCE)
    watch = server.results.watch()
    # When a message is published
    (task_id,) = send(server, 1)
    watch.add([task_id])
    # Then its result is pushed to the caller, and kept
    ((told, meta),) = watch.receive(timeout=PATIENCE)
    assert (told, json.loads(meta)["result"]) == (task_id, worker.process.pid)
    assert server.results.get([task_id]) == {task_id: meta}
    watch.close()


@pytest.mark.parametrize(
    ("gap", "chance"), [("received", 0.3), ("running", 0.1), ("ran", 0.3), ("committed", 0.3)]
)
def test_a_worker_killed_at_a_gap_loses_and_doubles_nothing(
    server: Server, start: Callable[..., WorkerProcess], gap: str, chance: float
) -> None:
    # Given work, and workers of which each dies at this gap sooner or later
    sent = send(server, 100)
    kills = 0
    while server.transport.depth(["work"])["work"].ready:
        worker = start(gap=gap, chance=chance)
        said = worker.rest()
        kills += said[-1][0] == gap or (gap, said[-1][0]) == ("ran", "running")
        # When one has died, its supervisor says what it was running
        server.transport.recover([DeadConsumer(worker.consumer_id, running(said))])
    # Then each task has its result, and its follow-up was sent once
    print(f"killed at {gap}: {kills}")
    assert kills
    assert set(server.results.get(sent)) == set(sent)
    assert follow_ups(server) == Counter(sent)


def test_a_worker_killed_anywhere_leaves_what_it_held_to_the_next(
    server: Server, start: Callable[..., WorkerProcess]
) -> None:
    # Given workers that are killed from outside while they are busy, wherever they are
    sent = send(server, 600)
    kills = 0
    while server.transport.depth(["work"])["work"].ready:
        worker = start(lease=0.3)
        for _ in range(random.randrange(1, 100)):
            if not worker.output.readline():
                break  # nothing is left to do
        worker.kill()
        # When their leases have ended, what they held goes back
        held = server.transport.depth(["work"])["work"].held
        kills += held > 0
        deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
        while held and not server.transport.recover():
            assert SYSTEM_CLOCK.monotonic() < deadline
            SYSTEM_CLOCK.sleep(0.02)
    # Then each task has its result, and its follow-up was sent once
    print(f"killed with messages held: {kills}")
    assert set(server.results.get(sent)) == set(sent)
    assert follow_ups(server) == Counter(sent)


def test_a_worker_frozen_for_longer_than_its_lease_writes_nothing(
    server: Server, start: Callable[..., WorkerProcess]
) -> None:
    # Given a worker that freezes while it runs a task
    (task_id,) = send(server, 1)
    zombie = start(lease=0.5, gap="freeze")
    zombie.until("running")
    # When its lease has ended, another worker runs the task
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while not server.transport.recover():
        assert SYSTEM_CLOCK.monotonic() < deadline
        SYSTEM_CLOCK.sleep(0.02)
    assert start().rest()[-1] == ["committed", task_id, "/", "0"]
    # Then what the first commits when it wakes up is refused, all of it
    meta = server.results.get([task_id])
    os.kill(zombie.process.pid, signal.SIGCONT)
    assert zombie.until("committed") == ["committed", task_id, "/", "1"]
    assert server.results.get([task_id]) == meta
    assert follow_ups(server) == Counter([task_id])
