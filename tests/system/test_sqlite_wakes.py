"""Idle processes are woken by those that publish, and cost nothing while they wait."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.sqlite_peer import LONG_NAP
from tests.system.sqlite_peers import PATIENCE, Peer, drain, opened, peers, send
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.message import Message, ResultRecord
from umbel.servers.sqlite import results
from umbel.states import SUCCESS
from umbel.testing.contract.stage import in_thread


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def started() -> Iterator[list[Peer]]:
    with peers() as started:
        yield started


def await_idle(path: Path, count: int) -> None:
    """Wait until so many consumers sleep: their states in the map of the bells."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while path.with_name(f"{path.name}-bells").read_bytes()[64:320].count(b"\2") != count:
        assert SYSTEM_CLOCK.monotonic() < deadline
        SYSTEM_CLOCK.sleep(0.002)


def test_an_idle_consumer_is_rung(url: str, path: Path, started: list[Peer]) -> None:
    server = opened(url, "tasks")
    started.append(taker := Peer(url, "take_when_rung", "tasks", 20))
    taker.until("ready")
    delays: list[float] = []
    for number in range(20):
        await_idle(path, 1)
        sent_at = SYSTEM_CLOCK.now()
        send(server, "tasks", str(number))
        delays.append(float(taker.until("got")[2]) - sent_at)
    print(f"woken after {sorted(delays)[10] * 1000:.1f} ms, at most {max(delays) * 1000:.1f} ms")
    assert max(delays) < LONG_NAP / 2
    server.close()


def test_each_message_rings_another_idle_consumer(
    url: str, path: Path, started: list[Peer]
) -> None:
    server = opened(url, "tasks")
    started += [Peer(url, "take_when_rung", "tasks", 1) for _ in range(3)]
    await_idle(path, 3)
    sent_at = SYSTEM_CLOCK.now()
    send(server, "tasks", "a", "b", "c")
    delays = [float(peer.until("got")[2]) - sent_at for peer in started]
    assert max(delays) < LONG_NAP / 2
    server.close()


def test_a_ring_for_a_dead_consumer_goes_to_another(
    url: str, path: Path, started: list[Peer]
) -> None:
    server = opened(url, "tasks")
    for count in range(1, 4):
        started.append(Peer(url, "take_when_rung", "tasks", 4))
        await_idle(path, count)
    # The dead ones have the first slots, so they would be rung first, and still look idle.
    for peer in started[:2]:
        peer.signal(signal.SIGKILL)
        peer.process.wait(PATIENCE)
    sent_at = SYSTEM_CLOCK.now()
    send(server, "tasks", "x")
    assert float(started[2].until("got")[2]) - sent_at < LONG_NAP / 2
    # Their slots are used again.
    await_idle(path, 1)
    for count in (2, 3):
        started.append(Peer(url, "take", "tasks", 1))
        await_idle(path, count)
    assert {entry.name for entry in path.with_name(f"{path.name}-bells.d").iterdir()} == set("012")
    server.close()


@pytest.mark.parametrize("what", ["-bells", "-bells.d"])
def test_without_bells_sleepers_poll(url: str, path: Path, started: list[Peer], what: str) -> None:
    # Given: something else stands where the map or the pipes should be
    if what == "-bells":
        path.with_name(f"{path.name}-bells").mkdir()
    else:
        path.with_name(f"{path.name}-bells.d").touch()
    server = opened(url, "tasks")
    started.append(taker := Peer(url, "take", "tasks", 2))
    taker.until("ready")
    # When / Then
    for number in range(2):
        send(server, "tasks", str(number))
        assert taker.until("got")[1] == str(number)
    server.close()


def test_an_idle_consumer_uses_next_to_nothing(url: str, started: list[Peer]) -> None:
    opened(url, "tasks").close()
    started.append(peer := Peer(url, "idle", "tasks", 4))
    used = float(peer.until("used")[1])
    print(f"{used:.2%} of a core")
    assert used < 0.005


def test_a_delay_that_ends_soon_is_kept_to_the_millisecond(
    url: str, path: Path, started: list[Peer]
) -> None:
    server = opened(url, "tasks")
    started.append(taker := Peer(url, "take", "tasks", 10))
    taker.until("ready")
    late: list[float] = []
    for number in range(10):
        await_idle(path, 1)
        due = SYSTEM_CLOCK.now() + 0.05
        message = Message(str(number), b"", {}, "tasks", not_before=due)
        server.transport.publish([message], deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)
        late.append(float(taker.until("got")[2]) - due)
    print(f"late by {sorted(late)[5] * 1000:.1f} ms")
    assert min(late) >= 0
    assert sorted(late)[5] < 0.1
    server.close()


def test_watches_with_few_and_with_many_ids_are_rung(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "NAP", LONG_NAP)
    server, worker = servers.open(url), servers.open(url)
    for count in (1, 40, 500):
        task_ids = [new_id() for _ in range(count)]
        watch = server.results.watch()
        watch.add(task_ids)
        waiting = in_thread(watch.receive, timeout=PATIENCE)
        began = SYSTEM_CLOCK.monotonic()
        worker.results.put([ResultRecord(task_ids[-1], b"meta", SUCCESS)])
        assert waiting() == [(task_ids[-1], b"meta")]
        assert SYSTEM_CLOCK.monotonic() - began < LONG_NAP / 2
        watch.close()
    server.close()
    worker.close()


def test_more_sleepers_than_slots(url: str) -> None:
    server = opened(url, "tasks")
    watches = [server.results.watch() for _ in range(260)]
    for watch in watches:
        watch.add([new_id()])
        watch.receive(timeout=0.001)
    last = new_id()
    watches[-1].add([last])
    waiting = in_thread(lambda: watches[-1].receive(timeout=PATIENCE))
    server.results.put([ResultRecord(last, b"meta", SUCCESS)])
    assert waiting() == [(last, b"meta")]
    for watch in watches:
        watch.close()
    server.close()


def test_descriptors_above_1023_are_waited_for(url: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    taken = [os.dup(0) for _ in range(1100)]
    try:
        server = opened(url, "tasks")
        consumer = server.transport.consume(["tasks"], consumer_id=new_id(), lease=600)
        waiting = in_thread(lambda: consumer.receive(1, timeout=PATIENCE))
        send(server, "tasks", "x")
        assert len(waiting()) == 1
        consumer.close()
        assert len(drain(server, "tasks", "t")) == 1
        server.close()
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
