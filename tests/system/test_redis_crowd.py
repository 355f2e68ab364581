"""Many consumers that wait on Redis: a message wakes a few, a burst wakes as many as it needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.redis import consumer as consumer_module
from umbel.servers.seams import Consumer, DeadConsumer, Server
from umbel.topology import Queue, Topology

PATIENCE = 60.0
CROWD = 40


@pytest.fixture
def server(own_redis_url: str) -> Iterator[Server]:
    server = servers.open(own_redis_url)
    server.transport.declare(Topology(queues=(Queue("work"), Queue("other"))))
    yield server
    server.close()


class Crowd:
    """Consumers that each wait for one message in a thread of their own, and then work for long."""

    def __init__(self, server: Server, size: int) -> None:
        self.consumers = [
            server.transport.consume(["work", "other"], consumer_id=new_id(), lease=600.0)
            for _ in range(size)
        ]
        self.got: list[str] = []
        self._ended = False
        self._threads = [threading.Thread(target=self._work, args=(c,)) for c in self.consumers]
        for thread in self._threads:
            thread.start()

    def _work(self, consumer: Consumer) -> None:
        while not self._ended:
            for delivery in consumer.receive(1, timeout=PATIENCE):
                self.got.append(delivery.message.id)
                return

    def end(self) -> None:
        self._ended = True
        for consumer in self.consumers:
            consumer.wake()
        for thread in self._threads:
            thread.join()
        for consumer in self.consumers:
            consumer.close()


@contextmanager
def crowd(
    server: Server, own_redis: Any, size: int = CROWD, *, beside: int = 0
) -> Generator[Crowd]:
    """Let so many wait, beside others that do already; all are when the block begins."""
    waiting = Crowd(server, size)
    try:
        until(lambda: is_waiting(own_redis, size + beside))
        yield waiting
    finally:
        waiting.end()


def is_waiting(own_redis: Any, size: int) -> bool:
    armed, idle = own_redis.zcard("umbel:armed:work"), own_redis.zcard("umbel:idle:work")
    return bool(armed + idle == size)


def until(what: Callable[[], bool]) -> None:
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while not what():
        assert SYSTEM_CLOCK.monotonic() < deadline
        SYSTEM_CLOCK.sleep(0.01)


def send(server: Server, count: int, queue: str = "work") -> None:
    messages = [Message(new_id(), b"[]", {}, queue) for _ in range(count)]
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)


def scripts_run(own_redis: Any) -> int:
    found = own_redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})
    return int(found["calls"])


def test_a_message_wakes_few_of_many(server: Server, own_redis: Any) -> None:
    with crowd(server, own_redis) as waiting:
        before = scripts_run(own_redis)
        send(server, 1)
        until(lambda: len(waiting.got) == 1)
        until(lambda: is_waiting(own_redis, CROWD - 1))
        asked = scripts_run(own_redis) - before
        print(f"{asked} scripts for one message and {CROWD} that wait")
        # The message; those who were armed take or arm again; the successor of who went to work
        assert asked <= 1 + 4 + 3 + 2
        assert own_redis.zcard("umbel:armed:work") == 4


@pytest.mark.parametrize("queue", ["work", "other"])
def test_a_burst_wakes_all_it_needs(server: Server, own_redis: Any, queue: str) -> None:
    with crowd(server, own_redis) as waiting:
        began = SYSTEM_CLOCK.monotonic()
        send(server, CROWD, queue)
        until(lambda: len(waiting.got) == CROWD)
        seconds = SYSTEM_CLOCK.monotonic() - began
        print(f"{CROWD} at work after {seconds:.3f} s")
        # Nobody had to find out by looking.
        assert seconds < consumer_module.LOOK / 2
        assert len(set(waiting.got)) == CROWD


def test_when_all_that_are_armed_are_gone_a_sleeper_finds_out(
    server: Server, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "LOOK", 0.5)
    with ExitStack() as stack:
        # Given four that wait no longer, and of whom nobody said so
        gone = [
            server.transport.consume(["work"], consumer_id=new_id(), lease=600.0) for _ in range(4)
        ]
        for each in gone:
            stack.callback(each.close)
            assert each.receive(1, timeout=0.01) == []
        assert own_redis.zcard("umbel:armed:work") == 4
        # When others wait, and a message comes
        waiting = stack.enter_context(crowd(server, own_redis, 2, beside=4))
        send(server, 1)
        # Then one of them has it
        until(lambda: len(waiting.got) == 1)


def test_who_ends_is_followed_by_another(
    server: Server, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "LOOK", 600.0)  # who is said to be dead does not look
    with crowd(server, own_redis, 6):
        first = own_redis.zrange("umbel:armed:work", 0, 0)[0]
        server.transport.recover([DeadConsumer(first.decode())])
        until(lambda: own_redis.zcard("umbel:armed:work") == 4)
