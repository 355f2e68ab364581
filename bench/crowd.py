"""A crowd of consumers at rest on a Redis, and what a message costs the server and its receiver.

    python -m bench.crowd URL COUNT    prints the figures as JSON

Each has a connection and a thread of its own, as a worker process has.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import redis

from bench.figures import percentile
from umbel import servers
from umbel.ids import new_id
from umbel.message import Effects, Message
from umbel.servers.seams import Consumer, Server
from umbel.topology import Queue, Topology

#: Messages, each sent when the one before has ended.
MESSAGES = 200
#: Seconds that the crowd is watched at rest.
REST = 4.0
#: Seconds until something must have happened.
PATIENCE = 60.0
#: Seconds of a lease: nobody renews it.
LEASE = 600.0


class Crowd:
    """Consumers that wait for work; ``took`` has the seconds from sending to the commit's end."""

    def __init__(self, server: Server, size: int) -> None:
        self.took = queue.SimpleQueue[float]()
        self._server = server
        for _ in range(size):
            consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=LEASE)
            threading.Thread(target=self._work, args=(consumer,), daemon=True).start()

    def _work(self, consumer: Consumer) -> None:
        while True:
            for delivery in consumer.receive(1, timeout=PATIENCE):
                got = time.monotonic()
                self._server.committer.commit([Effects(delivery)])
                self.took.put(got - float(delivery.message.body))


def measure(url: str, size: int) -> Mapping[str, float]:
    """Let so many wait, watch the server, then send."""
    server = servers.open(url)
    server.transport.declare(Topology(queues=(Queue("work"),)))
    admin: Any = redis.Redis.from_url(url)
    crowd = Crowd(server, size)
    _until_all_wait(admin, size)
    idle = _cpu(admin)
    time.sleep(REST)
    idle = (_cpu(admin) - idle) / REST
    cpu, took = _cpu(admin), list[float]()
    for _ in range(MESSAGES):
        body = str(time.monotonic()).encode()
        sent = Message(new_id(), body, {}, "work")
        server.transport.publish([sent], deadline=time.monotonic() + PATIENCE)
        took.append(crowd.took.get(timeout=PATIENCE) * 1e3)
    _until_all_wait(admin, size)
    cpu = _cpu(admin) - cpu
    return {
        "idle": idle * 100,
        "cpu": cpu * 1e6 / MESSAGES,
        "p50": percentile(took, 0.5),
        "p99": percentile(took, 0.99),
    }


def _until_all_wait(admin: Any, size: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while admin.zcard("umbel:armed:work") + admin.zcard("umbel:idle:work") < size:
        if time.monotonic() > deadline:
            raise TimeoutError("not all of them wait")
        time.sleep(0.05)


def _cpu(admin: Any) -> float:
    about = admin.info("cpu")
    return float(about["used_cpu_user"] + about["used_cpu_sys"])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
