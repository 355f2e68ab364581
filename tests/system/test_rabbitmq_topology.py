"""What RabbitMQ's model has beyond the contract: headers, exchange to exchange, own queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ImproperlyConfigured, TopologyConflict, Unroutable
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import Server
from umbel.topology import Binding, Exchange, Queue, Topology

PATIENCE = 60.0


@pytest.fixture
def server(rabbitmq_url: str) -> Iterator[Server]:
    server = servers.open(rabbitmq_url)
    yield server
    server.close()


def publish(server: Server, *messages: Message) -> None:
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)


def received(server: Server, queue: str, count: int = 1) -> list[Message]:
    consumer = server.transport.consume([queue], consumer_id=new_id(), lease=60.0)
    got: list[Message] = []
    while len(got) < count:
        batch = consumer.receive(count, timeout=PATIENCE)
        assert batch
        got += [each.message for each in batch]
    consumer.close()
    return got


def test_a_headers_exchange_leads_by_headers(server: Server) -> None:
    server.transport.declare(
        Topology(
            (Exchange("by-headers", "headers"),),
            (Queue("pdf"),),
            (Binding("by-headers", "pdf", "", {"x-match": "all", "format": "pdf"}),),
        )
    )
    with pytest.raises(Unroutable):
        publish(server, Message("a", b"", {"format": "txt"}, "", "by-headers"))
    publish(server, Message("b", b"", {"format": "pdf"}, "", "by-headers"))
    assert [each.id for each in received(server, "pdf")] == ["b"]


def test_an_exchange_takes_from_another(server: Server) -> None:
    server.transport.declare(
        Topology(
            (Exchange("outer", "topic"), Exchange("inner", "fanout")),
            (Queue("end"),),
            (Binding("outer", "inner", "logs.#"), Binding("inner", "end")),
        )
    )
    publish(server, Message("a", b"", {}, "logs.web", "outer"))
    assert [each.id for each in received(server, "end")] == ["a"]


def test_what_leads_nowhere_goes_to_the_alternate_exchange(server: Server) -> None:
    strict = Exchange("orders", "topic", arguments={"alternate-exchange": "unrouted"})
    server.transport.declare(
        Topology(
            (strict, Exchange("unrouted", "fanout")),
            (Queue("europe"), Queue("strays")),
            (Binding("orders", "europe", "eu.#"), Binding("unrouted", "strays")),
        )
    )
    publish(server, *(Message(key, b"", {}, key, "orders") for key in ("eu.fr", "us.ny")))
    assert [each.id for each in received(server, "europe")] == ["eu.fr"]
    (stray,) = received(server, "strays")
    assert (stray.exchange, stray.routing_key) == ("orders", "us.ny")


def test_what_is_too_old_or_too_much_goes_to_the_dead_letter_exchange(server: Server) -> None:
    to_late = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "late"}
    server.transport.declare(
        Topology(
            queues=(
                Queue("short", max_length=1, queue_arguments=to_late),
                Queue("brief", message_ttl=0.1, queue_arguments=to_late),
                Queue("late"),
            )
        )
    )
    publish(server, *(Message(name, b"", {"n": 1}, "short") for name in ("first", "second")))
    publish(server, Message("old", b"", {"n": 1}, "brief"))
    late = {each.id: each for each in received(server, "late", 2)}
    # They are what was sent: what the server noted in their headers stays with it
    assert sorted(late) == ["first", "old"]
    assert all(each.headers == {"n": 1} for each in late.values())
    assert [each.id for each in received(server, "short")] == ["second"]


def test_delayed_messages_keep_their_address_through_every_exchange(server: Server) -> None:
    # Given two ways to a queue, both long
    key = "a.key.of.many.words"
    server.transport.declare(
        Topology(
            (Exchange("topical", "topic"),), (Queue("end"),), (Binding("topical", "end", "a.#"),)
        )
    )
    # When messages are delayed on both
    due_at = SYSTEM_CLOCK.now() + 3.4
    addresses = [("topical", key), ("", "end")]
    publish(server, *(Message(new_id(), b"", {}, k, x, not_before=due_at) for x, k in addresses))
    # Then they come in time, with the addresses they were sent to
    got = received(server, "end", 2)
    assert SYSTEM_CLOCK.now() >= due_at
    assert sorted((each.exchange, each.routing_key) for each in got) == sorted(addresses)


def test_a_delayed_message_to_nowhere_is_unroutable_at_once(server: Server) -> None:
    later = SYSTEM_CLOCK.now() + 60.0
    with pytest.raises(Unroutable) as caught:
        publish(
            server,
            Message("a", b"", {}, "no-such-queue", not_before=later),
            Message("b", b"", {}, "key", "no-such-exchange", not_before=later),
        )
    assert [task_id for task_id, _ in caught.value.refused] == ["a", "b"]


def test_a_queue_of_ones_own_is_declared_by_its_consumer(server: Server) -> None:
    # Given a fanout to a queue that only one connection may use
    own = Queue("own", exclusive=True, auto_delete=True, durable=False)
    server.transport.declare(
        Topology((Exchange("news", "fanout"),), (own,), (Binding("news", "own"),))
    )
    # When its consumer begins
    consumer = server.transport.consume(["own"], consumer_id=new_id(), lease=60.0)
    assert consumer.receive(1, timeout=0.0) == []
    # Then it takes what is sent, and goes with its consumer
    publish(server, Message("a", b"", {}, "", "news"))
    assert [each.message.id for each in consumer.receive(1, timeout=PATIENCE)] == ["a"]
    consumer.close()
    assert server.transport.depth(["own"]) == {}


def test_a_conflict_says_what_is_and_what_was_asked(server: Server) -> None:
    server.transport.declare(Topology(queues=(Queue("q", max_priority=9),)))
    with pytest.raises(
        TopologyConflict, match=r"'q' exists with x-max-priority = 9, .* = none: use"
    ):
        server.transport.declare(Topology(queues=(Queue("q"),)))
    # An error of one order does not spoil the next.
    server.transport.declare(Topology(queues=(Queue("q", max_priority=9),)))


def test_quorum_queues_hold_and_give_back(server: Server) -> None:
    server.transport.declare(
        Topology(queues=(Queue("quorum", queue_arguments={"x-queue-type": "quorum"}),))
    )
    publish(server, *(Message(str(number), b"", {}, "quorum") for number in range(5)))
    consumer = server.transport.consume(["quorum"], consumer_id=new_id(), lease=60.0)
    for _ in range(3):
        held = consumer.receive(5, timeout=PATIENCE)
        consumer.give_back(held)
    consumer.close()
    got = received(server, "quorum", 5)
    assert sorted(each.id for each in got) == ["0", "1", "2", "3", "4"]
    assert all(each.headers == {} for each in got)


def test_several_addresses_are_tried_in_turn(rabbitmq_url: str) -> None:
    server = servers.open(f"amqp://127.0.0.1:1//;{rabbitmq_url}")
    assert server.transport.depth(["none"]) == {}
    assert "guest:" not in server.display_url
    server.close()


def test_a_password_that_is_refused_is_no_outage(rabbitmq_url: str) -> None:
    server = servers.open(rabbitmq_url.replace("guest:guest", "guest:wrong"))
    with pytest.raises(ImproperlyConfigured, match="password"):
        server.transport.depth(["none"])
    server.close()
