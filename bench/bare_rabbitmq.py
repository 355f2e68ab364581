"""The bare loop on RabbitMQ: the fewest lines that receive, run and acknowledge, with pika.

It is the ceiling that umbel is held against there. Variants:

    plain                 messages are acknowledged, a row of them at once
    BENCH_RESULTS=rpc://  each message is JSON, its function is called, its result is sent to its
                          caller, confirmed, then the message is acknowledged
    BENCH_RESULTS=redis…  the same with results stored and published on Redis

The client confirms everything it sends. What is missing is what a queue is for: nothing is counted,
fenced, delayed, retried or told from poison.

    python -m bench.bare_rabbitmq 2      two workers on $BENCH_URL
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pika
import redis
from pika.adapters.select_connection import SelectConnection

from bench import apps
from bench.bare import BATCH, KEPT, numbers, polled, run
from bench.tasks import TASKS, probe

#: Messages that a worker holds.
PREFETCH = 1000
#: Brings a message to the size of one in Celery's format, about 900 bytes.
PADDING = "." * 850


class Channel:
    """A confirming channel, driven by whoever waits for something on it."""

    def __init__(self, *, prefetch: int = 0) -> None:
        parameters = pika.URLParameters(os.environ[apps.URL])
        parameters.virtual_host = "/"
        self.connection: Any = SelectConnection(parameters, self._connected)
        self.replies: dict[str, bytes] = {}
        self.reply_to = f"replies-{os.getpid()}"
        self._prefetch = prefetch
        self._sent, self._lowest = 0, 1
        #: Numbers that are not confirmed.
        self._open: set[int] = set()
        self._ready = False
        self.connection.ioloop.activate_poller()
        self.wait(lambda: self._ready)

    def wait(self, done: Callable[[], bool], timeout: float = 60.0) -> None:
        """Poll until it is done."""
        loop, deadline = self.connection.ioloop, time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError
            timer = loop.call_later(1.0, lambda: None)
            loop.poll()
            loop.process_timeouts()
            loop.remove_timeout(timer)

    def publish(self, messages: Sequence[tuple[str, bytes, Any]]) -> None:
        """Send (queue, body, properties), and wait until all are confirmed."""
        self._open.update(range(self._sent + 1, self._sent + len(messages) + 1))
        for queue, body, properties in messages:
            self.channel.basic_publish("", queue, body, properties)
        self._sent += len(messages)
        self.wait(lambda: not self._open)

    def _connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._opened)

    def _opened(self, channel: Any) -> None:
        self.channel = channel
        channel.confirm_delivery(self._answered)
        arguments = {"x-queue-type": apps.queue_type()}
        channel.queue_declare("queue", durable=True, arguments=arguments)
        channel.queue_declare(self.reply_to, auto_delete=True)
        if self._prefetch:
            channel.basic_qos(prefetch_count=self._prefetch)
        else:
            channel.basic_consume(self.reply_to, self._replied, auto_ack=True)
        channel.queue_declare("queue", passive=True, callback=self._begun)

    def _begun(self, _frame: Any) -> None:
        self._ready = True

    def _answered(self, frame: Any) -> None:
        method = frame.method
        if method.multiple:
            self._open.difference_update(range(self._lowest, method.delivery_tag + 1))
            self._lowest = method.delivery_tag + 1
        else:
            self._open.discard(method.delivery_tag)

    def _replied(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self.replies[properties.correlation_id] = body


def work() -> None:
    """Receive, run and acknowledge, for ever."""
    channel = Channel(prefetch=PREFETCH)
    mark, results = probe().mark, os.environ.get(apps.RESULTS, "")
    database: Any = redis.Redis.from_url(results) if results.startswith("redis") else None
    arrived: list[tuple[int, Any, bytes]] = []

    def take(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
        arrived.append((method.delivery_tag, properties, body))

    channel.channel.basic_consume("queue", take)
    while True:
        channel.wait(lambda: bool(arrived), timeout=3600.0)
        batch, arrived[:] = arrived[:BATCH], arrived[BATCH:]
        if not results:
            for _ in batch:
                mark()
        else:
            done = [(properties, _run(body)) for _, properties, body in batch]
            if database is None:
                channel.publish([_reply(*each) for each in done])
            else:
                _store(database, done)
        channel.channel.basic_ack(batch[-1][0], multiple=True)


def _run(body: bytes) -> bytes:
    task, args, _ = json.loads(body)
    return json.dumps(TASKS[task](*args)).encode()


def _reply(properties: Any, result: bytes) -> tuple[str, bytes, Any]:
    own = pika.BasicProperties(delivery_mode=1, correlation_id=properties.correlation_id)
    return properties.reply_to, result, own


def _store(database: Any, done: Sequence[tuple[Any, bytes]]) -> None:
    with database.pipeline() as pipeline:
        for properties, result in done:
            pipeline.setex(f"result-{properties.correlation_id}", KEPT, result)
            pipeline.publish(f"result-{properties.correlation_id}", result)
        pipeline.execute()


# -- what the client calls ------------------------------------------------------------------------


def sender(task: str) -> Callable[..., Any]:
    """Return a function that sends one message."""
    return lambda *args: send_many(task, [args])[0]


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send many, all in flight together."""
    channel = opened()
    ids = [str(next(numbers)) for _ in calls]
    channel.publish(
        [
            (
                "queue",
                json.dumps((task, args, PADDING)).encode(),
                pika.BasicProperties(
                    delivery_mode=2, correlation_id=each, reply_to=channel.reply_to
                ),
            )
            for each, args in zip(ids, calls, strict=True)
        ]
    )
    return ids


def wait(handle: Any, timeout: float) -> Any:
    """Wait for a result."""
    results = os.environ.get(apps.RESULTS, "")
    if results.startswith("redis"):
        database: Any = redis.Redis.from_url(results)
        return json.loads(polled(lambda: database.get(f"result-{handle}"), timeout))
    replies = opened().replies
    opened().wait(lambda: handle in replies, timeout)
    return json.loads(replies.pop(handle))


#: The client's channel.
opened = cache(Channel)


if __name__ == "__main__":
    run(work)
