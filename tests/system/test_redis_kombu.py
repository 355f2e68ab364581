"""The layout on Redis, as the library sees it that Celery's programs use."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import redis

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import Server
from umbel.topology import Binding, Exchange, Queue, Topology

#: Without its types, which are incomplete.
kombu: Any = import_module("kombu")

PATIENCE = 60.0


@pytest.fixture
def server(redis_url: str) -> Iterator[Server]:
    server = servers.open(redis_url)
    yield server
    server.close()


@pytest.fixture
def theirs(redis_url: str) -> Iterator[Any]:
    """A connection of kombu's."""
    with kombu.Connection(redis_url) as connection:
        yield connection


def publish(server: Server, *messages: Message) -> None:
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)


def receive(server: Server, *queues: str, count: int) -> list[Message]:
    consumer = server.transport.consume(queues, consumer_id=new_id(), lease=60.0)
    got: list[Message] = []
    while len(got) < count:
        got += [each.message for each in consumer.receive(count - len(got), timeout=PATIENCE)]
    consumer.close()
    return got


def drain(connection: Any, queue: Any, count: int) -> list[Any]:
    """Let kombu consume so many messages, acknowledging each."""
    got: list[Any] = []

    def take(_body: Any, message: Any) -> None:
        message.ack()
        got.append(message)

    with connection.Consumer(queue, callbacks=[take], accept=["json"]):
        while len(got) < count:
            connection.drain_events(timeout=PATIENCE)
    return got


def test_kombu_receives_what_we_publish_in_order_and_by_priority(
    server: Server, theirs: Any
) -> None:
    server.transport.declare(Topology(queues=(Queue("work"),)))
    for priority in (9, 0, 5, 3, 6, 0):
        publish(server, Message(f"p{priority}", b"[]", {"n": 1}, "work", priority=priority))
    got = drain(theirs, kombu.Queue("work"), 6)
    order = [each.properties["correlation_id"] for each in got]
    assert order == ["p0", "p0", "p5", "p3", "p6", "p9"]
    assert got[0].headers == {"n": 1}
    assert got[0].delivery_info == {"exchange": "", "routing_key": "work"}


def test_we_receive_what_kombu_publishes(server: Server, theirs: Any) -> None:
    queue = kombu.Queue("work", kombu.Exchange("work"), routing_key="work")
    with theirs.Producer() as producer:
        for priority in (9, 0, 5, 3):
            producer.publish(
                [priority], routing_key="work", declare=[queue], priority=priority, headers={"h": 2}
            )
    got = receive(server, "work", count=4)
    assert [each.body for each in got] == [b"[0]", b"[5]", b"[3]", b"[9]"]
    assert [each.priority for each in got] == [0, 5, 3, 9]
    assert got[0].headers == {"h": 2}


def test_bindings_of_either_side_are_used_by_the_other(server: Server, theirs: Any) -> None:
    # Given a topic exchange with a queue of theirs and one of ours
    exchange = kombu.Exchange("news", "topic")
    theirs_bound = kombu.Queue("theirs", exchange, routing_key="red.*.#")
    theirs_bound(theirs.default_channel).declare()
    ours_bound = Binding("news", "ours", "*.hot.#")
    server.transport.declare(
        Topology((Exchange("news", "topic"),), (Queue("ours"),), (ours_bound,))
    )
    # When each side publishes
    publish(server, Message("from us", b"[]", {}, "red.hot.now", exchange="news"))
    with theirs.Producer() as producer:
        producer.publish([], exchange=exchange, routing_key="red.hot.later", correlation_id="kombu")
    # Then both queues have both messages
    assert [each.id for each in receive(server, "ours", count=2)] == ["from us", "kombu"]
    got = [each.properties["correlation_id"] for each in drain(theirs, theirs_bound, 2)]
    assert got == ["from us", "kombu"]


def test_a_consumer_of_ours_that_waits_is_woken_by_kombu(server: Server, theirs: Any) -> None:
    server.transport.declare(Topology(queues=(Queue("work"),)))
    consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=60.0)
    assert consumer.receive(1, timeout=0.0) == []
    with theirs.Producer() as producer:
        producer.publish([], routing_key="work", priority=7)
        assert len(consumer.receive(1, timeout=PATIENCE)) == 1
    consumer.close()


def test_no_message_is_taken_twice_by_consumers_of_both_kinds(server: Server, theirs: Any) -> None:
    server.transport.declare(Topology(queues=(Queue("work"),)))
    sent = [new_id() for _ in range(200)]
    publish(server, *(Message(each, b"[]", {}, "work") for each in sent))
    got: list[str] = []

    def take(_body: Any, message: Any) -> None:
        message.ack()
        got.append(message.properties["correlation_id"])

    consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=60.0)
    with theirs.Consumer(kombu.Queue("work"), callbacks=[take], accept=["json"]):
        while len(got) < len(sent):
            got += [each.message.id for each in consumer.receive(3, timeout=0.0)]
            try:
                theirs.drain_events(timeout=0.1)
            except socket.timeout:  # noqa: UP041 -- what kombu raises
                continue
    assert sorted(got) == sorted(sent)
    consumer.close()


def test_everything_of_ours_stands_under_our_prefix(redis_url: str) -> None:
    server = servers.open(redis_url, {"global_keyprefix": "site:"})
    server.transport.declare(Topology(queues=(Queue("work", Exchange("work"), "work"),)))
    publish(server, Message("a", b"", {}, "work"), Message("b", b"", {}, "work", not_before=4e9))
    assert len(receive(server, "work", count=1)) == 1
    client: Any = redis.Redis.from_url(redis_url)
    keys = {key.decode() for key in client.keys("*")}
    client.close()
    server.close()
    theirs = {"site:work", "site:_kombu.binding.work", "site:_kombu.binding_permanent.work"}
    assert theirs <= keys
    assert all(key.startswith("site:umbel:") for key in keys - theirs)
