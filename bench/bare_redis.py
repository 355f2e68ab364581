"""The bare loop on Redis: the fewest lines that reserve, run and acknowledge in batches of 100.

It is the ceiling that umbel is held against there, with redis-py and hiredis. Two variants:

    plain         a batch moves from the list to a hash in one script, and is deleted from it
    BENCH_CALL=1  each message is JSON, its function is called, its result is stored and published,
                  all of it in the transaction that deletes the batch

What it lacks is what a queue is for: nobody takes back what a dead process held, nothing is fenced,
scheduled, routed, retried or woken; whoever is idle polls every millisecond.

    python -m bench.bare_redis 2      two workers on $BENCH_URL
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import redis

from bench import apps
from bench.bare import BATCH, CALL, KEPT, POLL, numbers, polled, run
from bench.tasks import TASKS, probe

#: Brings a message to the size of one in Celery's format, about 900 bytes.
PADDING = "." * 850

#: Move up to ARGV[1] messages from a list to a hash; return them with their new numbers.
RESERVE = """
local taken = redis.call('RPOP', KEYS[1], ARGV[1])
if not taken then return {} end
local hold = {}
local last = redis.call('INCRBY', KEYS[3], #taken)
for i, message in ipairs(taken) do
  hold[#hold + 1] = last - #taken + i
  hold[#hold + 1] = message
end
redis.call('HSET', KEYS[2], unpack(hold))
return hold
"""


def connect() -> Any:
    """Return a client; without its types, which are incomplete."""
    return redis.Redis.from_url(os.environ[apps.URL])


def work() -> None:
    """Reserve, run and delete, for ever."""
    client = connect()
    finish = run_and_store if CALL else count_and_delete
    reserve = client.register_script(RESERVE)
    keys = ("queue", f"held-{os.getpid()}", "last")
    while True:
        found = reserve(keys, [BATCH])
        if found:
            finish(client, keys[1], found[::2], found[1::2])
        else:
            time.sleep(POLL)


def count_and_delete(client: Any, held: str, numbers: list[int], bodies: list[bytes]) -> None:
    """Note each message, then delete them all."""
    mark = probe().mark
    for _ in bodies:
        mark()
    client.hdel(held, *numbers)


def run_and_store(client: Any, held: str, numbers: list[int], bodies: list[bytes]) -> None:
    """Call each message's function; store and publish the results and delete the messages."""
    with client.pipeline() as pipeline:
        for body in bodies:
            number, task, args, _ = json.loads(body)
            result = json.dumps(TASKS[task](*args))
            pipeline.setex(f"result-{number}", KEPT, result)
            pipeline.publish(f"result-{number}", result)
        pipeline.hdel(held, *numbers)
        pipeline.execute()


# -- what the client calls ------------------------------------------------------------------------


def sender(task: str) -> Callable[..., Any]:
    """Return a function that pushes one message."""
    push = opened().lpush

    def send(*args: Any) -> int:
        number = next(numbers)
        push("queue", encode(number, task, args))
        return number

    return send


def send_many(task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Push many in one command."""
    taken = list(itertools.islice(numbers, len(calls)))
    pairs = zip(taken, calls, strict=True)
    opened().lpush("queue", *(encode(number, task, args) for number, args in pairs))
    return taken if CALL else []


def encode(number: int, task: str, args: tuple[Any, ...]) -> bytes:
    """Return a message: of the right size, and its call if the worker shall read it."""
    return json.dumps((number, task, args, PADDING)).encode() if CALL else _BODY


def wait(handle: Any, timeout: float) -> Any:
    """Poll for a result."""
    return json.loads(polled(lambda: opened().get(f"result-{handle}"), timeout))


#: The client's connection.
opened = cache(connect)
_BODY = json.dumps((0, "noop", (1,), PADDING)).encode()


if __name__ == "__main__":
    run(work)
