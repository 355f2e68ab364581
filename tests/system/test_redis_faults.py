"""What breaks between umbel and Redis: connections, replies, the server itself."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import redis_server
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    ConnectionLost,
    ImproperlyConfigured,
    MessageTooLarge,
    PublishError,
    StorageError,
    TimeoutError,
    Unroutable,
)
from umbel.ids import new_id
from umbel.message import Delivery, Effects, Message, ResultRecord
from umbel.servers.redis import RedisServer, connection, open_server, scripts
from umbel.servers.redis.connection import Word
from umbel.servers.redis.consumer import RedisConsumer
from umbel.servers.seams import Consumer, DeadConsumer, Server, Watch
from umbel.states import SUCCESS
from umbel.testing.probe import Probe
from umbel.topology import Exchange, Queue, Topology

#: Seconds until what must happen fails the test.
PATIENCE = 60.0


@pytest.fixture
def server(redis_url: str) -> Iterator[RedisServer]:
    yield from opened(redis_url)


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    """A plain client of the same database."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server(own_redis_url: str) -> Iterator[RedisServer]:
    yield from opened(own_redis_url)


def opened(url: str) -> Iterator[RedisServer]:
    server = open_server(url, {})
    server.transport.declare(Topology(queues=(Queue("work"),)))
    yield server
    server.close()


def send(server: Server, count: int = 1) -> list[str]:
    messages = [Message(new_id(), b"[]", {}, "work") for _ in range(count)]
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)
    return [each.id for each in messages]


def begin(server: Server) -> Consumer:
    return server.transport.consume(["work"], consumer_id=new_id(), lease=600.0)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [each.message.id for each in deliveries]


def persistently(receive: Callable[[], list[Delivery]]) -> list[Delivery]:
    """Receive, and again when the connection was lost; the deadline is the test's."""
    while True:
        try:
            return receive()
        except ConnectionLost:
            SYSTEM_CLOCK.sleep(0.01)


# --- lost replies and connections


def test_what_a_lost_reply_contained_is_given_again(server: RedisServer) -> None:
    # Given a request that took messages, and whose reply never came
    sent = send(server, 5)
    consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=600.0)
    assert isinstance(consumer, RedisConsumer)
    connections = server._connections
    keys, about = consumer._rotations[0]
    arguments: list[Word] = [consumer._number, 3, 1000, "", *about]
    connections.run(scripts.RESERVE, keys, [arguments])
    # Then the next one gives the same, and only then the others
    first = consumer.receive(10, timeout=PATIENCE)
    assert ids(first) == sent[:3]
    # And that request, executed late and once more, takes nothing
    connections.run(scripts.RESERVE, keys, [arguments])
    assert ids(consumer.receive(10, timeout=PATIENCE)) == sent[3:]
    report = server.committer.commit([Effects(each) for each in first])
    assert report.stale == ()
    consumer.close()


def test_connections_killed_at_random_lose_nothing(own_server: RedisServer, own_redis: Any) -> None:
    # Given a consumer that works, while its server kills every connection now and then
    sent = send(own_server, 3000)
    consumer = begin(own_server)
    done: Counter[str] = Counter()
    lost = 0
    while sum(done.values()) < len(sent):
        batch = persistently(lambda: consumer.receive(20, timeout=1.0))
        if random.random() < 0.3:
            lost += own_redis.client_kill_filter(_type="normal", skipme=True)
        results = [ResultRecord(each.message.id, b"{}", SUCCESS) for each in batch]
        try:
            report = own_server.committer.commit(
                [Effects(each, results=(r,)) for each, r in zip(batch, results, strict=True)]
            )
        except ConnectionLost:
            continue
        done.update(ids([each for each in batch if each not in report.stale]))
    # Then every message was committed once
    print(f"{lost} connections killed")
    assert lost > 10
    assert done == Counter(sent)
    assert own_server.transport.depth(["work"])["work"].held == 0
    consumer.close()


def test_a_server_that_was_restarted_is_found_again(server_directory: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(server_directory, *options) as redis_process:
        server = servers.open(redis_process.url)
        server.transport.declare(Topology(queues=(Queue("work"),)))
        sent = send(server, 3)
        consumer, watch = begin(server), server.results.watch()
        watch.add(sent)
        held = consumer.receive(2, timeout=PATIENCE)
        # When the server dies with messages held, and comes back with its data
        redis_process.kill()
        with pytest.raises(ConnectionLost):
            send(server)
        with pytest.raises(ConnectionLost):
            consumer.receive(1, timeout=PATIENCE)
        redis_process.start()
        # Then what was held still is, what waits is received, and what is stored is told
        records = [ResultRecord(each.message.id, b"{}", SUCCESS) for each in held]
        effects = [Effects(each, results=(r,)) for each, r in zip(held, records, strict=True)]
        assert server.committer.commit(effects).stale == ()
        assert ids(consumer.receive(5, timeout=PATIENCE)) == sent[2:]
        assert sorted(told(watch, 2)) == sorted(sent[:2])
        watch.close()
        consumer.close()
        server.close()


def told(watch: Watch, count: int) -> set[str]:
    seen: set[str] = set()
    while len(seen) < count:
        try:
            seen |= {task_id for task_id, _ in watch.receive(timeout=PATIENCE)}
        except ConnectionLost:
            SYSTEM_CLOCK.sleep(0.01)
    return seen


def test_a_frozen_server_makes_a_publish_end_at_its_deadline(server_directory: Path) -> None:
    with redis_server(server_directory) as redis_process:
        server = servers.open(redis_process.url)
        server.transport.declare(Topology(queues=(Queue("work"),)))
        redis_process.freeze()
        for _ in range(2):  # over a connection that was there, and over a new one
            began = SYSTEM_CLOCK.monotonic()
            with pytest.raises((TimeoutError, ConnectionLost)):
                server.transport.publish([Message("x", b"", {}, "work")], deadline=began + 0.3)
            assert SYSTEM_CLOCK.monotonic() - began < PATIENCE / 2
        redis_process.thaw()
        server.close()


def test_scripts_that_the_server_forgot_are_sent_again(
    own_server: RedisServer, own_redis: Any
) -> None:
    consumer = begin(own_server)
    own_redis.script_flush()
    sent = send(own_server, 2500)
    assert ids(consumer.receive(10_000, timeout=PATIENCE)) == sent
    consumer.close()


def test_a_forked_child_opens_connections_of_its_own(server: RedisServer) -> None:
    before = send(server)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):  # whatever happens, the child must not go on as pytest
            server.transport.publish([Message("child", b"", {}, "work")], deadline=math.inf)
            server.close()
        os._exit(0)
    os.waitpid(child, 0)
    with Probe() as probe:
        after = send(server)
        assert probe.seen("connection.opened") == []  # the parent's was left alone
    consumer = begin(server)
    assert ids(consumer.receive(5, timeout=PATIENCE)) == [*before, "child", *after]
    consumer.close()


# --- a server that cannot or must not


def test_a_full_server_refuses_messages_and_still_gives_and_ends_them(
    own_server: RedisServer, own_redis: Any
) -> None:
    sent = send(own_server, 2)
    consumer = begin(own_server)
    own_redis.config_set("maxmemory", "1")
    with pytest.raises(StorageError, match="OOM"):
        send(own_server)
    (held, other) = consumer.receive(5, timeout=PATIENCE)
    record = ResultRecord(held.message.id, b"{}", SUCCESS)
    follow_up = Message("next", b"[]", {}, "work")
    effects = Effects(held, results=(record,), publish=(follow_up,))
    assert own_server.committer.commit([effects]).stale == ()
    consumer.give_back([other])
    own_redis.config_set("maxmemory", "0")
    assert ids(consumer.receive(5, timeout=PATIENCE)) == [*sent[1:], "next"]
    assert set(own_server.results.get(sent)) == {sent[0]}
    consumer.close()


def test_a_key_that_is_no_list_is_named_and_the_other_queues_go_on(
    server: RedisServer, admin: redis.Redis
) -> None:
    server.transport.declare(Topology(queues=(Queue("taken"),)))
    admin.set("taken", "a text")
    with pytest.raises(PublishError, match="the key taken holds no queue"):
        server.transport.publish(
            [Message("x", b"", {}, "taken")], deadline=SYSTEM_CLOCK.monotonic() + PATIENCE
        )
    sent = send(server)
    consumer = server.transport.consume(["taken", "work"], consumer_id=new_id(), lease=600.0)
    assert ids(consumer.receive(5, timeout=PATIENCE)) == sent
    with pytest.raises(StorageError, match="taken"):
        consumer.receive(5, timeout=0.0)
    assert admin.get("taken") == b"a text"
    consumer.close()


def test_a_message_over_the_limit_is_refused_alone(redis_url: str) -> None:
    server = open_server(redis_url, {"max_message_size": 2000})
    server.transport.declare(Topology(queues=(Queue("work"),)))
    small, large = Message("s", b"", {}, "work"), Message("l", b"x" * 2000, {}, "work")
    with pytest.raises(MessageTooLarge) as caught:
        server.transport.publish([large, small], deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)
    assert [task_id for task_id, _ in caught.value.refused] == ["l"]
    consumer = begin(server)
    (held,) = consumer.receive(5, timeout=PATIENCE)
    assert held.message.id == "s"
    # As a follow-up it is refused with all its effects, and its cause is held as before
    (refusal,) = server.committer.commit([Effects(held, publish=(large, small))]).refused
    assert isinstance(refusal.error, PublishError)
    assert "2000 are allowed" in str(refusal.error)
    assert consumer.receive(5, timeout=0.0) == []
    assert server.committer.commit([Effects(held, publish=(small,))]).stale == ()
    assert ids(consumer.receive(5, timeout=PATIENCE)) == ["s"]
    consumer.close()
    server.close()


def test_neighbouring_versions_share_a_server(
    server: RedisServer, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    # Given a message of this version, and one of the next, which this one understands
    sent = send(server)
    with monkeypatch.context() as newer:
        newer.setattr(connection, "SCHEMA", 2)
        other = open_server(redis_url, {})
        sent += send(other)
        assert admin.hgetall("umbel:schema") == {b"written": b"2", b"readable_from": b"1"}
    # Then each receives what the other sent, and this one may begin after it too
    consumers = begin(open_server(redis_url, {})), begin(other)
    assert [ids(each.receive(1, timeout=PATIENCE)) for each in consumers] == [sent[:1], sent[1:]]
    for each in consumers:
        each.close()
    # But not when a version was here whose data it would misread
    with monkeypatch.context() as newest:
        newest.setattr(connection, "SCHEMA", 3)
        newest.setattr(connection, "READABLE_FROM", 2)
        open_server(redis_url, {}).transport.queues()
    with pytest.raises(ImproperlyConfigured, match="newer umbel"):
        open_server(redis_url, {}).transport.queues()


def test_a_hostile_task_id_harms_nobody(server: RedisServer) -> None:
    half = "\ud800"  # half of a surrogate pair is no Unicode text, and JSON can carry it
    (innocent,) = send(server)
    consumer = begin(server)
    (held,) = consumer.receive(5, timeout=PATIENCE)
    records = (ResultRecord(half, b"{}", SUCCESS), ResultRecord(innocent, b"{}", SUCCESS))
    assert server.committer.commit([Effects(held, results=records)]).stale == ()
    assert set(server.results.get([innocent, half])) == {innocent, half}
    consumer.close()


def test_elements_that_are_no_messages_are_given_with_the_problem(
    server: RedisServer, admin: redis.Redis
) -> None:
    poison = [b"{}", b"not json", b"\xff\xfe", b"[1]", b'{"body": 3}', b"", b"null"]
    admin.rpush("work", *reversed(poison))
    (good,) = send(server)
    consumer = begin(server)
    got = consumer.receive(100, timeout=PATIENCE)
    assert [each.message.body for each in got[:-1]] == poison
    assert all(each.problem for each in got[:-1])
    assert got[-1].message.id == good
    consumer.close()


# --- queues that end


def test_a_queue_of_one_worker_ends_with_it(server: RedisServer, admin: redis.Redis) -> None:
    # Given two workers that get every message of an exchange, each in a queue of its own
    exchange = Exchange("news", "fanout")
    own = [Queue(f"own-{n}", exchange, auto_delete=True) for n in (1, 2)]
    server.transport.declare(Topology((exchange,), tuple(own)))
    ids = [new_id() for _ in own]
    consumers = [
        server.transport.consume([queue.name, "work"], consumer_id=each, lease=600.0)
        for queue, each in zip(own, ids, strict=True)
    ]
    message = Message("all", b"[]", {}, "", exchange="news")
    server.transport.publish([message], deadline=math.inf)
    # When one ends in order and the other is found dead
    consumers[0].close()
    assert server.transport.queues() == ["own-2", "work"]
    server.transport.recover([DeadConsumer(ids[1])])
    # Then nothing is left of their queues, and what they shared is still there
    assert server.transport.queues() == ["work"]
    assert not admin.keys("*own-*")
    assert not admin.smembers("_kombu.binding.news")
    with pytest.raises(Unroutable):
        server.transport.publish([message], deadline=math.inf)
    consumers[1].close()


# --- waiting


def test_a_consumer_at_rest_asks_the_server_nothing(
    own_server: RedisServer, own_redis: Any
) -> None:
    consumer = begin(own_server)
    consumer.receive(1, timeout=0.0)
    before = own_redis.info("stats")["total_commands_processed"]
    assert consumer.receive(1, timeout=1.0) == []
    # Two requests, at the beginning and the end of the wait, each a script of twenty commands.
    assert own_redis.info("stats")["total_commands_processed"] - before < 60
    consumer.close()


def test_a_batch_is_one_round_trip_to_publish_and_two_to_receive_and_commit(
    own_server: RedisServer, own_redis: Any
) -> None:
    consumer = begin(own_server)
    send(own_server, 1000)
    own_redis.config_resetstat()
    send(own_server, 1000)
    got = consumer.receive(1000, timeout=PATIENCE)
    follow_ups = [Message(new_id(), b"[]", {}, "work") for _ in got]
    records = [ResultRecord(each.message.id, b"{}", SUCCESS) for each in got]
    triples = zip(got, records, follow_ups, strict=True)
    own_server.committer.commit([Effects(e, results=(r,), publish=(m,)) for e, r, m in triples])
    calls = {name: stat["calls"] for name, stat in own_redis.info("commandstats").items()}
    assert calls["cmdstat_evalsha"] == 3
    consumer.close()


def test_connections_are_opened_once(server: RedisServer) -> None:
    with Probe() as probe:
        consumer = begin(server)
        for _ in range(5):
            send(server)
            server.committer.commit([Effects(e) for e in consumer.receive(5, timeout=PATIENCE)])
        assert len(probe.seen("connection.opened")) == 1  # the other was open already
        consumer.close()
