"""Processes on one SQLite file are killed or stopped: nothing is lost, nothing is done twice."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.sqlite_peers import PATIENCE, Peer, drain, opened, peers, send
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TimeoutError
from umbel.ids import new_id
from umbel.servers.seams import DeadConsumer
from umbel.testing.contract.stage import eventually, in_thread

#: Commits that shall be hit, and how many kills that may take.
HITS, KILLS = 4, 40


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/queue.sqlite"


@pytest.fixture
def started() -> Iterator[list[Peer]]:
    with peers() as started:
        yield started


def test_a_commit_takes_place_as_a_whole_or_not_at_all(url: str, started: list[Peer]) -> None:
    # Given: messages, and a worker that commits batches of results and follow-ups
    server = opened(url, "tasks", "after")
    sent = [f"task-{number}" for number in range(KILLS * 400)]
    send(server, "tasks", *sent)
    hits = kills = 0
    while hits < HITS and kills < KILLS:
        kills += 1
        # When: it is killed about in the middle of a commit
        worker = Peer(url, "work", "tasks", "after", consumer_id := new_id())
        started.append(worker)
        for _ in range(random.randint(1, 4)):
            worker.until("begin")
        pause(random.uniform(0, 0.004))
        worker.signal(signal.SIGKILL)
        hits += [line[0] for line in worker.rest()][-1:] != ["end"]
        server.transport.recover([DeadConsumer(consumer_id)])
    print(f"{hits} of {kills} kills hit a commit")
    # Then: each message waits, or its result and its follow-up exist; each once
    after = Counter(each.message.id.removeprefix("after-") for each in drain(server, "after", "a"))
    waiting = Counter(each.message.id for each in drain(server, "tasks", "t"))
    assert set(after) == set(server.results.get(sent))
    assert after + waiting == Counter(sent)
    assert hits == HITS
    server.close()


def test_what_a_killed_publisher_confirmed_is_there(url: str, started: list[Peer]) -> None:
    server = opened(url, "tasks")
    confirmed: list[str] = []
    for _ in range(5):
        publisher = Peer(url, "publish", "tasks")
        started.append(publisher)
        for _ in range(random.randint(5, 50)):
            confirmed += publisher.until("sent")[1:]
        publisher.signal(signal.SIGKILL)
        confirmed += [task_id for line in publisher.rest() for task_id in line[1:]]
    got = Counter(each.message.id for each in drain(server, "tasks", "t"))
    assert max(got.values()) == 1
    assert not set(confirmed) - set(got)
    # Publishes are atomic too: of the batch that was not confirmed there is all or nothing.
    assert (len(got) - len(confirmed)) % 20 == 0
    server.close()


def test_a_process_that_died_with_the_turn_holds_nobody_up(url: str, started: list[Peer]) -> None:
    server = opened(url, "tasks")
    started.append(holder := Peer(url, "hold_the_turn"))
    holder.until("holding")
    holder.signal(signal.SIGKILL)
    send(server, "tasks", "x")
    assert len(drain(server, "tasks", "t")) == 1
    server.close()


def test_a_process_stopped_with_the_turn_delays_and_deadlines_hold(
    url: str, started: list[Peer]
) -> None:
    # Given: a process that is stopped in the middle of a write
    server = opened(url, "tasks")
    started.append(holder := Peer(url, "hold_the_turn"))
    holder.until("holding")
    holder.signal(signal.SIGSTOP)
    # When: another publishes with a deadline, again and again
    for number in range(3):
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(TimeoutError, match=r"queue\.sqlite.*stopped"):
            send(server, "tasks", f"late-{number}", seconds=0.2)
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE
    # Then: nothing of that is stored, and all goes on when the process does
    holder.signal(signal.SIGCONT)
    holder.input.write(b"\n")
    holder.input.flush()
    holder.until("released")
    send(server, "tasks", "x")
    assert [each.message.id for each in drain(server, "tasks", "t")] == ["x"]
    server.close()


def test_no_process_starves(url: str, started: list[Peer]) -> None:
    server = opened(url, "tasks")
    started += [Peer(url, "publish", "tasks") for _ in range(3)]
    for peer in started:
        peer.until("sent")
    said = [in_thread(peer.rest) for peer in started]
    wanted = server.transport.depth(["tasks"])["tasks"].ready + 200 * 20
    eventually(
        lambda: server.transport.depth(["tasks"])["tasks"].ready >= wanted,
        "200 batches",
        patience=PATIENCE,
    )
    for peer in started:
        peer.signal(signal.SIGKILL)
    counts = sorted(len(rest()) for rest in said)
    print(f"batches of each: {counts}")
    assert counts[0] > counts[-1] / 10
    server.close()


def pause(seconds: float) -> None:
    """Let another process get somewhere that nobody can tell from outside."""
    SYSTEM_CLOCK.sleep(seconds)
