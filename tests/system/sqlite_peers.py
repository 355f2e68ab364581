"""Starting and reading the processes of ``sqlite_peer``, for the tests of SQLite."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.message import Delivery, Effects, Message
from umbel.servers.seams import Server
from umbel.topology import Queue, Topology

ROOT = Path(__file__).parents[2]
#: Seconds until what must happen fails the test.
PATIENCE = 60.0


class Peer:
    """One process, and what it says."""

    def __init__(self, url: str, act: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.sqlite_peer", url, act, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.output: IO[bytes] = self.process.stdout
        self.input: IO[bytes] = self.process.stdin

    def line(self) -> list[str]:
        """Read what it says next."""
        line = self.output.readline()
        assert line, "the process ended"
        return line.decode().split()

    def until(self, word: str) -> list[str]:
        """Read on until it says this."""
        while (line := self.line())[0] != word:
            pass
        return line

    def rest(self) -> list[list[str]]:
        """Return all that it says until its end."""
        return [line.decode().split() for line in self.output.read().splitlines()]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill it, if it has not ended. Idempotent."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(PATIENCE)
        self.output.close()
        self.input.close()


@contextmanager
def peers() -> Generator[list[Peer]]:
    """A list of processes that are ended with the block."""
    started: list[Peer] = []
    try:
        yield started
    finally:
        for peer in started:
            peer.end()


def opened(url: str, *queues: str) -> Server:
    server = servers.open(url)
    server.transport.declare(Topology(queues=tuple(Queue(name) for name in queues)))
    return server


def send(server: Server, queue: str, *task_ids: str, seconds: float = PATIENCE) -> None:
    messages = [Message(task_id, b"body", {}, queue) for task_id in task_ids]
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + seconds)


def drain(server: Server, queue: str, consumer_id: str) -> list[Delivery]:
    """Receive and end all that is ready."""
    consumer = server.transport.consume([queue], consumer_id=consumer_id, lease=600)
    drained: list[Delivery] = []
    while batch := consumer.receive(500, timeout=0.0):
        server.committer.commit([Effects(each) for each in batch])
        drained += batch
    consumer.close()
    return drained
