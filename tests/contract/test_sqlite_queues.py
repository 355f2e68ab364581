"""What SQLite's queues do beyond the contract: their limits, their ends, and odd rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from umbel import servers
from umbel.exceptions import (
    MessageTooLarge,
    PublishError,
    TopologyConflict,
    TransportError,
    Unroutable,
)
from umbel.message import Effects, Ending, Message
from umbel.servers.seams import Server
from umbel.servers.sqlite import statements as sql
from umbel.testing.clock import FakeClock
from umbel.testing.contract import Backend, Stage
from umbel.testing.contract.stage import PATIENCE, ids, message
from umbel.topology import Binding, Exchange, Queue, Topology

#: What a hostile or careless program may use as an id, and no encoding has.
ODD = "nul \0, half \ud800, quote ' \" and \N{PILE OF POO}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def stage(path: Path) -> Iterator[Stage]:
    clock = FakeClock.running()
    options = {"clock": clock, "max_message_size": 100_000}
    stage = Stage(Backend(f"sqlite:///{path}", clock=clock, options=options))
    yield stage
    stage.close()


def reasons(stage: Stage, *task_ids: str) -> list[str]:
    return [letter.reason for letter in stage.letters(*task_ids)]


# --- how long messages may wait


def test_messages_that_waited_too_long_become_dead_letters(stage: Stage) -> None:
    queue = stage.queue(message_ttl=10.0)
    old = stage.send(queue, 2)
    stage.lapse(6)
    young = stage.send(queue)
    stage.lapse(6)
    assert ids(stage.drain(queue)) == young
    assert reasons(stage, *old) == ["it waited too long (message_ttl)"] * 2
    assert [letter.queue for letter in stage.letters(*old)] == [queue] * 2


def test_the_time_of_a_delayed_message_begins_when_it_is_due(stage: Stage) -> None:
    queue = stage.queue(message_ttl=10.0)
    sent = stage.send(queue, not_before=stage.clock.now() + 50)
    stage.lapse(55)
    assert ids(stage.drain(queue)) == sent


def test_what_is_held_does_not_grow_old(stage: Stage) -> None:
    queue = stage.queue(message_ttl=10.0)
    sent = stage.send(queue)
    held = stage.take(stage.consumer(queue))
    stage.lapse(20)
    assert stage.drain(queue) == []
    assert stage.acknowledge(*held).stale == ()
    assert reasons(stage, *sent) == []


# --- how many messages may wait


def test_a_full_queue_drops_its_oldest_to_the_dead_letters(stage: Stage) -> None:
    queue = stage.queue(max_length=3)
    first = stage.send(queue, 2)
    later = stage.send(queue, 3)
    assert ids(stage.drain(queue)) == later
    assert reasons(stage, *first) == ["the queue is full (max_length 3)"] * 2


def test_a_full_queue_drops_the_lowest_priority_first(stage: Stage) -> None:
    queue = stage.queue(max_length=2)
    urgent = stage.send(queue, priority=9)
    stage.send(queue, 2, priority=1)
    last = stage.send(queue, priority=5)
    assert ids(stage.drain(queue)) == [*urgent, *last]


def test_a_queue_may_refuse_what_is_too_much(stage: Stage) -> None:
    queue = stage.queue(max_length=3, queue_arguments={"x-overflow": "reject-publish"})
    taken = stage.send(queue, 2)
    batch = [message(queue) for _ in range(3)]
    with pytest.raises(PublishError, match="is full") as caught:
        stage.publish(*batch)
    assert [task_id for task_id, _ in caught.value.refused] == [each.id for each in batch[1:]]
    assert ids(stage.drain(queue)) == [*taken, batch[0].id]


def test_a_full_queue_refuses_a_follow_up(stage: Stage) -> None:
    queue = stage.queue()
    full = stage.queue(max_length=1, queue_arguments={"x-overflow": "reject-publish"})
    stage.send(full)
    stage.send(queue)
    held = stage.one(stage.consumer(queue))
    (refusal,) = stage.commit(Effects(held, publish=(message(full),))).refused
    assert type(refusal.error) is PublishError
    assert "is full" in str(refusal.error)


# --- how queues end


def test_a_queue_without_consumers_expires(stage: Stage) -> None:
    queue = stage.queue(expires=10.0)
    stage.send(queue)
    consumer = stage.consumer(queue)
    stage.lapse(20)
    stage.transport.recover()
    assert queue in stage.transport.queues()
    consumer.close()
    stage.lapse(5)
    stage.transport.recover()
    assert queue in stage.transport.queues()
    stage.lapse(6)
    stage.transport.recover()
    assert queue not in stage.transport.queues()
    with pytest.raises(Unroutable):
        stage.send(queue)


def test_an_auto_delete_queue_ends_with_its_last_consumer(stage: Stage) -> None:
    queue = stage.queue(auto_delete=True)
    stage.send(queue, 2)
    first, second = stage.consumer(queue), stage.consumer(queue)
    first.close()
    assert queue in stage.transport.queues()
    stage.take(second)
    second.close()
    assert queue not in stage.transport.queues()
    assert rows(stage, "messages") == 0


def test_an_exclusive_queue_has_one_consumer_and_ends_with_it(stage: Stage) -> None:
    queue = stage.queue(exclusive=True)
    consumer = stage.consumer(queue)
    with pytest.raises(TopologyConflict, match="exclusive"):
        stage.consumer(queue)
    consumer.close()
    assert queue not in stage.transport.queues()


def test_an_auto_delete_exchange_ends_with_its_last_queue(stage: Stage) -> None:
    exchange = Exchange("news", "fanout", auto_delete=True)
    queue = Queue("inbox", auto_delete=True)
    binding = Binding("news", "inbox")
    stage.transport.declare(Topology((exchange,), (queue,), (binding,)))
    stage.consumer("inbox").close()
    stage.transport.declare(Topology((Exchange("news", "topic"),)))


def test_what_is_held_of_a_deleted_queue_may_be_committed_or_vanishes(stage: Stage) -> None:
    queue = stage.queue(auto_delete=True)
    sent = stage.send(queue, 2)
    consumer = stage.consumer(queue)
    done, left = stage.take(consumer, 2)
    other = stage.consumer(queue)
    # A queue ends with the sessions that its own consumers tell of; this one only holds.
    execute(stage, "DELETE FROM subscriptions")
    other.close()
    execute(stage, f"DELETE FROM queues WHERE name = '{queue}'")
    execute(stage, "UPDATE state SET topology = topology + 1")
    assert stage.acknowledge(done).stale == ()
    consumer.give_back([left])
    assert stage.acknowledge(left).stale == (left,)
    assert rows(stage, "messages") == rows(stage, "ready") == rows(stage, "held") == 0
    assert reasons(stage, *sent) == []


def test_a_consumer_sees_queues_that_are_declared_later(stage: Stage) -> None:
    consumer = stage.consumer("later")
    stage.nothing(consumer)
    stage.transport.declare(Topology(queues=(Queue("later"),)))
    sent = stage.send("later")
    assert ids(stage.take(consumer)) == sent


def test_a_consumer_may_have_very_many_queues(stage: Stage) -> None:
    names = [f"many-{number}" for number in range(600)]
    stage.transport.declare(Topology(queues=tuple(Queue(name) for name in names)))
    low = stage.send(names[3], 2)
    high = stage.send(names[599], priority=9)
    later = stage.send(names[0])
    consumer = stage.consumer(*names)
    assert ids(stage.take(consumer, 2)) == [*high, low[0]]
    assert ids(stage.take(consumer, 2)) == [low[1], *later]


# --- messages


def test_a_body_over_the_limit_is_refused_alone(stage: Stage) -> None:
    queue = stage.queue()
    small, large = message(queue), message(queue, body=b"x" * 100_001)
    with pytest.raises(MessageTooLarge, match="max_message_size is 100000"):
        stage.publish(small, large)
    assert ids(stage.drain(queue)) == [small.id]


def test_headers_that_are_no_json_are_refused_alone(stage: Stage) -> None:
    queue = stage.queue()
    good, bad = message(queue), message(queue, headers={"x": object()})
    with pytest.raises(PublishError, match="no JSON") as caught:
        stage.publish(bad, good)
    assert [task_id for task_id, _ in caught.value.refused] == [bad.id]
    assert ids(stage.drain(queue)) == [good.id]


def test_odd_texts_survive(stage: Stage) -> None:
    queue = stage.queue()
    tagged = {"__type__": "nobody's", "__value__": 1}
    sent = Message(ODD, b"", {ODD: ODD, "x": tagged}, queue, reply_to=ODD)
    watch = stage.watch()
    watch.add([ODD])
    stage.ledger.revoke([ODD.replace("\0", "")], expires_in=60)
    stage.publish(sent)
    held = stage.one(stage.consumer(queue))
    got = held.message
    assert (got.id, got.headers, got.reply_to) == (ODD, sent.headers, ODD)
    stage.commit(Effects(held, Ending.DEAD, ODD, results=(stage.record(ODD, b"meta"),)))
    assert stage.results(ODD) == {ODD: b"meta"}
    assert watch.receive(timeout=PATIENCE) == [(ODD, b"meta")]
    assert stage.letters(ODD)[0].reason.startswith("nul \0, half \\ud800")
    stage.server.results.forget([ODD])
    assert stage.results(ODD) == {}


def test_a_damaged_row_is_delivered_as_a_problem_and_stops_nobody(stage: Stage) -> None:
    queue = stage.queue()
    stage.send(queue, 3)
    execute(stage, "UPDATE messages SET data = '[1' WHERE id = (SELECT min(id) FROM messages)")
    execute(stage, "UPDATE messages SET data = '{}' WHERE id = (SELECT max(id) FROM messages)")
    held = stage.take(stage.consumer(queue), 3)
    assert [each.problem is None for each in held] == [False, True, False]
    assert held[0].message.body.startswith(b"body of")
    stage.bury(held[0])
    assert stage.acknowledge(*held[1:]).stale == ()


def test_headers_may_hold_what_the_serializer_tags(stage: Stage) -> None:
    queue = stage.queue()
    at = datetime(2026, 11, 22, tzinfo=UTC)
    stage.send(queue, headers={"at": at})
    assert stage.drain(queue)[0].message.headers == {"at": at}


def test_ids_are_never_used_again(stage: Stage) -> None:
    queue = stage.queue()
    consumer = stage.consumer(queue)
    tags = set[int]()
    for _ in range(20):
        stage.send(queue)
        held = stage.one(consumer)
        tags.add(held.tag[0])
        stage.acknowledge(held)
    assert len(tags) == 20


def rows(stage: Stage, table: str) -> int:
    return int(execute(stage, f"SELECT count(*) FROM {table}")[0][0])


def execute(stage: Stage, statement: str) -> list[tuple[int, ...]]:
    """Run a statement on the file, as an administrator would."""
    server: Server = servers.open(stage.backend.url)
    connection = sqlite3.connect(server.display_url.removeprefix("sqlite:///"))
    with connection:
        found = connection.execute(statement).fetchall()
    connection.close()
    return found


# --- spans


def test_what_is_held_between_is_not_received_again(stage: Stage) -> None:
    queue = stage.queue()
    sent = stage.send(queue, 5)
    consumer = stage.consumer(queue)
    held = stage.take(consumer, 5)
    consumer.give_back([held[0], held[2], held[4]])
    again = stage.take(consumer, 3)
    assert ids(again) == [sent[0], sent[2], sent[4]]
    assert stage.acknowledge(*again, held[1], held[3]).stale == ()
    assert stage.drain(queue) == []


def test_what_was_held_and_could_not_be_read_comes_with_the_next_receive(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = stage.queue(), stage.queue()
    sent = [stage.send(queues[number % 2], priority=number % 3)[0] for number in range(9)]
    consumer = stage.consumer(*queues)
    with monkeypatch.context() as broken:
        broken.setattr(sql, "FETCH", "SELECT nothing FROM nowhere")
        with pytest.raises(TransportError):
            consumer.receive(6, 1.0)
    received = [*consumer.receive(6, 0.0), *consumer.receive(6, 0.0)]
    assert ids(received) == [sent[at] for at in (2, 5, 8, 1, 4, 7, 0, 3, 6)]
    assert stage.acknowledge(*received).stale == ()


def test_an_end_that_comes_twice_or_too_late_is_stale_and_the_others_are_not(stage: Stage) -> None:
    queue, other = stage.queue(), stage.queue()
    stage.send(queue, 4)
    consumer = stage.consumer(queue)
    one, two, late, kept = stage.take(consumer, 4)
    consumer.give_back([late])
    report = stage.server.committer.commit([Effects(each) for each in (one, late, two, one)])
    assert report.stale == (late, one)
    follow_up = Effects(kept, publish=(message(other),))
    assert stage.server.committer.commit([follow_up, Effects(kept)]).stale == (kept,)
    assert ids(stage.drain(queue)) == [late.message.id]
    assert len(stage.drain(other)) == 1
