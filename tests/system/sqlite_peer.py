"""What the tests of SQLite start as other processes.

    python -m tests.system.sqlite_peer URL ACT ARGUMENT…

Each act says on its standard output what it does, a line at a time, so that a test can end or
freeze it at that moment.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import StorageError
from umbel.ids import new_id
from umbel.message import Effects, Message, ResultRecord
from umbel.servers.seams import Server
from umbel.servers.sqlite import SqliteServer
from umbel.servers.sqlite import consumer as consuming
from umbel.servers.sqlite.connection import Transaction
from umbel.states import SUCCESS

#: Seconds that a consumer sleeps which is to be rung: so many that a busy machine has rung before.
LONG_NAP = 30.0


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def publish(server: Server, queue: str) -> None:
    """Publish for ever; say each batch's ids when it is confirmed."""
    while True:
        batch = [Message(new_id(), b"x" * 200, {}, queue) for _ in range(20)]
        server.transport.publish(batch, deadline=SYSTEM_CLOCK.monotonic() + 60)
        say("sent", *[message.id for message in batch])


def work(server: Server, queue: str, after: str, consumer_id: str) -> None:
    """Receive, then commit results and follow-ups, for ever; say when a commit begins and ends."""
    consumer = server.transport.consume([queue], consumer_id=consumer_id, lease=600)
    say("ready")
    while True:
        batch = consumer.receive(50, timeout=60)
        effects = [
            Effects(
                each,
                results=(ResultRecord(each.message.id, b"done" * 50, SUCCESS),),
                publish=(Message(f"after-{each.message.id}", b"y" * 200, {}, after),),
            )
            for each in batch
        ]
        say("begin")
        server.committer.commit(effects)
        say("end")


def take_when_rung(server: Server, queue: str, count: str) -> None:
    """Take, and hardly ever look without having been rung."""
    setattr(consuming, "NAP", LONG_NAP)  # noqa: B010 -- imported there, so not exported
    take(server, queue, count)


def take(server: Server, queue: str, count: str) -> None:
    """Receive and end so many messages one by one; say when each came."""
    consumer = server.transport.consume([queue], consumer_id=new_id(), lease=600)
    consumer.receive(1, timeout=0)
    say("ready")
    for _ in range(int(count)):
        (delivery,) = consumer.receive(1, timeout=60)
        say("got", delivery.message.id, SYSTEM_CLOCK.now())
        server.committer.commit([Effects(delivery)])
    consumer.close()


def idle(server: Server, queue: str, seconds: str) -> None:
    """Wait for messages; say how much of a core that took."""
    consumer = server.transport.consume([queue], consumer_id=new_id(), lease=600)
    consumer.receive(1, timeout=0.1)
    before = resource.getrusage(resource.RUSAGE_SELF)
    consumer.receive(1, timeout=float(seconds))
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    say("used", used / float(seconds))


def hold_the_turn(server: Server) -> None:
    """Stay inside a transaction until somebody writes to the standard input."""
    assert isinstance(server, SqliteServer)

    def hold(_transaction: Transaction) -> None:
        say("holding")
        sys.stdin.readline()

    server.database.write(hold)
    say("released")


def fill(server: Server, queue: str, limit: str) -> None:
    """Publish until the file may not grow, then let it grow; say what was confirmed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
    deadline = SYSTEM_CLOCK.monotonic() + 60
    while True:
        message = Message(new_id(), b"x" * 20_000, {}, queue)
        try:
            server.transport.publish([message], deadline=deadline)
        except StorageError as error:
            say("full", error)
            break
        say("sent", message.id)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    server.transport.publish([message], deadline=deadline)
    say("sent", message.id)


ACTS: dict[str, Callable[..., None]] = {
    act.__name__: act for act in (publish, work, take, take_when_rung, idle, hold_the_turn, fill)
}

if __name__ == "__main__":
    url, name, *arguments = sys.argv[1:]
    ACTS[name](servers.open(url), *arguments)
