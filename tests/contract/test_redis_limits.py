"""Queues with limits on Redis, beside Celery's programs, which know of none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from umbel.exceptions import PublishError, Unroutable
from umbel.message import Effects
from umbel.servers.redis import limits
from umbel.testing.contract import Backend, Stage
from umbel.testing.contract.stage import ids, message
from umbel.topology import Binding, Exchange, Queue, Topology

FULL = "the queue is full (max_length {})"
#: Seconds: no test takes so long, and one that is older has waited too long.
TTL = 1000.0


@pytest.fixture
def stage(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(limits, "INTERVAL", 0.0)
    stage = Stage(Backend(redis_url, row="redis", options={"highest_priority": 9}))
    yield stage
    stage.close()


@pytest.fixture
def admin(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def reasons(stage: Stage, *task_ids: str) -> list[str]:
    return [letter.reason for letter in stage.letters(*task_ids)]


def sent_before(stage: Stage, queue: str, seconds: float, **about: Any) -> str:
    """Send a message as it would be if it had been sent so long ago; return its id."""
    sent = message(queue, sent_at=stage.clock.now() - seconds, **about)
    stage.publish(sent)
    return sent.id


# --- how many messages may wait


def test_a_full_queue_drops_its_oldest_to_the_dead_letters(stage: Stage) -> None:
    queue = stage.queue(max_length=3)
    first = stage.send(queue)
    later = stage.send(queue, 4)
    assert ids(stage.drain(queue)) == later[1:]
    assert reasons(stage, *first, later[0]) == [FULL.format(3)] * 2
    assert [letter.queue for letter in stage.letters(*first)] == [queue]


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


def test_a_full_queue_refuses_a_follow_up_and_drops_for_one(stage: Stage) -> None:
    queue, drops = stage.queue(), stage.queue(max_length=1)
    refuses = stage.queue(max_length=1, queue_arguments={"x-overflow": "reject-publish"})
    old, _ = stage.send(drops), stage.send(refuses)
    stage.send(queue, 2)
    first, second = stage.take(stage.consumer(queue), 2)
    (refusal,) = stage.commit(Effects(first, publish=(message(refuses),))).refused
    assert "is full" in str(refusal.error)
    follow_up = message(drops)
    assert stage.commit(Effects(second, publish=(follow_up,))).refused == ()
    assert ids(stage.drain(drops)) == [follow_up.id]
    assert reasons(stage, *old) == [FULL.format(1)]


def test_the_limit_holds_for_what_comes_by_an_exchange(stage: Stage) -> None:
    topic, queue = Exchange("news", "topic"), Queue("inbox", max_length=1)
    stage.transport.declare(Topology((topic,), (queue,), (Binding("news", "inbox", "#"),)))
    sent = [message("any.thing", exchange="news") for _ in range(2)]
    stage.publish(*sent)
    assert ids(stage.drain("inbox")) == [sent[1].id]


def test_what_celery_sends_too_much_is_found(stage: Stage, admin: Any) -> None:
    queue, other = stage.queue(max_length=2), stage.queue()
    sent = stage.send(other, 4)
    while envelope := admin.rpop(other):
        admin.lpush(queue, envelope)
    stage.transport.recover()
    assert ids(stage.drain(queue)) == sent[2:]
    assert reasons(stage, *sent[:2]) == [FULL.format(2)] * 2


# --- how long they may wait


def test_messages_that_waited_too_long_become_dead_letters(stage: Stage) -> None:
    queue = stage.queue(message_ttl=TTL)
    old = [sent_before(stage, queue, TTL + 1) for _ in range(2)]
    young = sent_before(stage, queue, 1)
    assert ids(stage.drain(queue)) == [young]
    assert reasons(stage, *old) == [limits.TOO_OLD] * 2


def test_the_old_are_ended_though_nobody_receives(stage: Stage) -> None:
    queue = stage.queue(message_ttl=TTL)
    old = [sent_before(stage, queue, TTL + 1) for _ in range(limits.SLICE + 1)]
    young = sent_before(stage, queue, 1)
    stage.transport.recover()
    assert stage.transport.depth([queue])[queue].ready == 1
    assert reasons(stage, *old) == [limits.TOO_OLD] * len(old)
    assert ids(stage.drain(queue)) == [young]


def test_the_time_of_a_delayed_message_begins_when_it_is_due(stage: Stage) -> None:
    queue = stage.queue(message_ttl=TTL)
    due = sent_before(stage, queue, 2 * TTL, not_before=stage.clock.now() - 1)
    stage.transport.recover()
    assert ids(stage.drain(queue)) == [due]


def test_who_does_not_say_when_it_was_sent_may_wait(stage: Stage) -> None:
    queue = stage.queue(message_ttl=TTL)
    sent = message(queue, sent_at=0.0)
    stage.publish(sent)
    stage.transport.recover()
    assert ids(stage.drain(queue)) == [sent.id]


# --- how long a queue is unused


def test_a_queue_without_consumers_expires(stage: Stage, admin: Any) -> None:
    queue = stage.queue(expires=TTL)
    stage.send(queue)
    consumer = stage.consumer(queue)
    stage.transport.recover()
    assert admin.zscore("umbel:unused", queue) is None
    consumer.close()
    stage.transport.recover()
    assert queue in stage.transport.queues()
    admin.zincrby("umbel:unused", -TTL * 1_000_000, queue)  # it was so long ago
    stage.transport.recover()
    assert queue not in stage.transport.queues()
    assert not admin.exists(queue)
    with pytest.raises(Unroutable):
        stage.send(queue)


def test_a_queue_that_is_used_again_begins_anew(stage: Stage, admin: Any) -> None:
    queue = stage.queue(expires=TTL)
    stage.transport.recover()
    admin.zincrby("umbel:unused", -TTL * 1_000_000, queue)
    with_consumer = stage.consumer(queue)
    stage.transport.recover()
    with_consumer.close()
    stage.transport.recover()
    assert queue in stage.transport.queues()
