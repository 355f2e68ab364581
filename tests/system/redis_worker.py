"""A worker at its smallest, for tests that kill it: receive, run, commit, over and over.

    python -m tests.system.redis_worker URL QUEUE NEXT_QUEUE CONSUMER_ID LEASE PATIENCE GAP CHANCE

Says what it does on standard output, one line a step: "ready", "received ID…", "running ID",
"committed ID… / STALE". It ends when it received nothing for PATIENCE seconds. At GAP ("received",
"running", "ran", "committed") it kills itself, by CHANCE; at "freeze" it stops while it runs a
task, as a machine does that sleeps.
"""

from __future__ import annotations

import os
import random
import signal
import sys

from umbel import servers
from umbel.message import Delivery, Effects, Message, ResultRecord
from umbel.states import SUCCESS


def main() -> None:
    url, queue, next_queue, consumer_id, lease, patience, gap, chance = sys.argv[1:]
    server = servers.open(url)
    consumer = server.transport.consume([queue], consumer_id=consumer_id, lease=float(lease))

    def at(here: str) -> None:
        if here == gap and random.random() < float(chance):
            os.kill(os.getpid(), signal.SIGKILL)

    say("ready")
    while deliveries := consumer.receive(5, timeout=float(patience)):
        say("received", *(each.message.id for each in deliveries))
        at("received")
        done = []
        for delivery in deliveries:
            say("running", delivery.message.id)
            at("running")
            if gap == "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            done.append(effects(delivery, next_queue))
        at("ran")
        report = server.committer.commit(done)
        say("committed", *(each.message.id for each in deliveries), "/", len(report.stale))
        at("committed")
    consumer.close()
    server.close()


def effects(delivery: Delivery, next_queue: str) -> Effects:
    task_id = delivery.message.id
    pid = str(os.getpid()).encode()
    meta = b'{"status": "SUCCESS", "task_id": "' + task_id.encode() + b'", "result": ' + pid + b"}"
    follow_up = Message(f"after-{task_id}-{pid.decode()}", b"[[], {}, {}]", {}, next_queue)
    return Effects(delivery, results=(ResultRecord(task_id, meta, SUCCESS),), publish=(follow_up,))


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


if __name__ == "__main__":
    main()
