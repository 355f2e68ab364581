"""Where the suites play: how to reach the server under test, and the few moves tests are made of.

Two kinds of waiting are kept apart. What *shall* happen is waited for with a deadline of several
seconds that no passing test ever reaches. What shall *not* happen is watched for ``Backend.quiet``
seconds. Time that only has to pass (a lease, a delay) passes by ``lapse``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import pytest

from umbel import servers
from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.ids import new_id
from umbel.message import Delivery, Effects, Ending, Message, ResultRecord
from umbel.servers.seams import (
    CommitReport,
    Consumer,
    DeadLetter,
    Joins,
    Ledger,
    Server,
    Transport,
    Watch,
)
from umbel.servers.timetable import Timetable
from umbel.states import SUCCESS
from umbel.topology import Queue, Topology

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds until a wait for what must happen fails the test, unless the backend says otherwise.
PATIENCE = 30.0
#: Seconds of a lease that shall not end during a test.
LONG = 600.0


@dataclass(frozen=True, slots=True)
class Backend:
    """How the suites reach an empty server, and how its time passes."""

    #: For ``umbel.servers.open``; opened again it is the same server, as another process has it.
    url: str
    #: The server's row in ``capabilities.TABLE``; "" for a server that is not ours.
    row: str = ""
    #: Tells the time of the server's due times and leases; its ``sleep`` lets that time pass.
    clock: Clock = SYSTEM_CLOCK
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Seconds of leases and delays that shall end during a test. With a real clock this is waited
    #: for; it must be long enough for a few calls on a busy machine.
    short: float = 10.0
    #: Seconds in which something that must not arrive would have arrived.
    quiet: float = 0.05
    #: Seconds until a wait for what must happen fails the test.
    patience: float = PATIENCE
    #: Other processes reach the same server by this URL.
    across_processes: bool = True
    #: Puts bytes that are no message into a queue, where a server takes such; None = it cannot.
    spoil: Callable[[str], None] | None = None
    #: How many random histories the model-based test plays.
    histories: int = 30
    #: What to put around each server that is opened, e.g. a fault injector.
    wrap: Callable[[Server], Server] = lambda server: server

    def open(self) -> Server:
        """Open the server once more."""
        return self.wrap(servers.open(self.url, self.options))


class Stage:
    """One test's server, its other handles and sessions, closed together at the end."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.clock = backend.clock
        self.short = backend.short
        self.patience = backend.patience
        self._servers: list[Server] = []
        self._sessions: list[Consumer | Watch] = []
        self.server = self.open()

    # --- the parts under test

    @property
    def transport(self) -> Transport:
        return self.server.transport

    @property
    def ledger(self) -> Ledger:
        assert self.server.ledger is not None, "LedgerContract is for servers with a ledger"
        return self.server.ledger

    @property
    def joins(self) -> Joins:
        assert self.server.joins is not None, "JoinContract is for servers with joins"
        return self.server.joins

    @property
    def timetable(self) -> Timetable:
        assert self.server.timetable is not None, "TimetableContract is for servers with timetables"
        return self.server.timetable

    def open_timetable(self) -> Timetable:
        """Open the timetables as another process has them."""
        timetable = self.open().timetable
        assert timetable is not None
        return timetable

    @property
    def atomic(self) -> bool:
        return self.transport.capabilities.commit == "atomic"

    def open_ledger(self) -> Ledger:
        """Open the ledger as another process has it."""
        ledger = self.open().ledger
        assert ledger is not None
        return ledger

    def open(self) -> Server:
        """Open another handle of the same server, as another process has it."""
        server = self.backend.open()
        self._servers.append(server)
        return server

    def close(self) -> None:
        # Emptied as well: some have descriptors that are closed with their last reference.
        while self._sessions:
            self._sessions.pop().close()
        while self._servers:
            self._servers.pop().close()

    # --- time

    def deadline(self) -> float:
        return self.clock.monotonic() + self.patience

    def lapse(self, seconds: float) -> None:
        """Let time pass; who waits in a receive looks again."""
        self.clock.sleep(seconds)
        for session in self._sessions:
            session.wake()

    # --- publishing

    def queue(self, **properties: Any) -> str:
        """Declare a new queue and return its name."""
        name = f"q-{new_id()[-8:]}"
        self.transport.declare(Topology(queues=(Queue(name, **properties),)))
        return name

    def publish(self, *messages: Message) -> None:
        self.transport.publish(messages, deadline=self.deadline())

    def send(self, queue: str, count: int = 1, **fields: Any) -> list[str]:
        """Publish new messages to a queue; return their ids."""
        messages = [message(queue, **fields) for _ in range(count)]
        self.publish(*messages)
        return [each.id for each in messages]

    # --- receiving

    def consumer(self, *queues: str, lease: float = LONG, server: Server | None = None) -> Consumer:
        return self.session(*queues, lease=lease, server=server)[1]

    def session(
        self, *queues: str, lease: float = LONG, server: Server | None = None
    ) -> tuple[str, Consumer]:
        """Begin to consume; return the consumer's id too."""
        consumer_id = f"consumer-{new_id()}"
        transport = (server or self.server).transport
        consumer = transport.consume(queues, consumer_id=consumer_id, lease=lease)
        self._sessions.append(consumer)
        return consumer_id, consumer

    def take(self, consumer: Consumer, count: int = 1) -> list[Delivery]:
        """Receive exactly this many; waits for each of them."""
        taken: list[Delivery] = []
        deadline = SYSTEM_CLOCK.monotonic() + self.patience
        while len(taken) < count:
            left = deadline - SYSTEM_CLOCK.monotonic()
            assert left > 0, f"received {ids(taken)}, not {count} messages in {self.patience} s"
            taken += consumer.receive(count - len(taken), timeout=left)
        assert len(taken) == count
        return taken

    def one(self, consumer: Consumer) -> Delivery:
        """Receive one message."""
        return self.take(consumer)[0]

    def nothing(self, consumer: Consumer) -> None:
        """Check that there is nothing to receive."""
        deadline = SYSTEM_CLOCK.monotonic() + self.backend.quiet
        while (left := deadline - SYSTEM_CLOCK.monotonic()) > 0:
            assert ids(consumer.receive(100, timeout=left)) == []

    def drain(self, *queues: str) -> list[Delivery]:
        """Receive and end all that is ready, as a new consumer."""
        consumer = self.consumer(*queues)
        drained: list[Delivery] = []
        while batch := consumer.receive(100, timeout=self.backend.quiet):
            drained += batch
            self.acknowledge(*batch)
        consumer.close()
        return drained

    # --- committing

    def commit(self, *effects: Effects, server: Server | None = None) -> CommitReport:
        return (server or self.server).committer.commit(effects)

    def acknowledge(self, *deliveries: Delivery) -> CommitReport:
        return self.commit(*(Effects(each) for each in deliveries))

    def bury(self, delivery: Delivery, reason: str = "tired") -> None:
        """Commit a delivery to the dead letters."""
        report = self.commit(Effects(delivery, Ending.DEAD, reason))
        assert report.stale == ()

    def letters(self, *task_ids: str) -> list[DeadLetter]:
        """Return the dead letters of these messages, oldest first."""
        found: list[DeadLetter] = []
        after = ""
        while page := self.ledger.dead_letters(limit=100, after=after):
            found += [letter for letter in page if letter.message.id in task_ids]
            after = page[-1].key
        return found

    def record(
        self, task_id: str, meta: bytes = b"{}", state: str = SUCCESS, **fields: Any
    ) -> ResultRecord:
        """Return a result as a worker stores it for the caller that this stage's server is."""
        return ResultRecord(task_id, meta, state, reply_to=self.server.results.reply_to, **fields)

    def results(self, *task_ids: str) -> dict[str, bytes]:
        return self.server.results.get(task_ids)

    def watch(self, server: Server | None = None) -> Watch:
        watch = (server or self.server).results.watch()
        self._sessions.append(watch)
        return watch


class Suite:
    """What all suites share. A subclass in a test file defines ``backend``."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("define the fixture `backend`, see umbel.testing.contract")

    @pytest.fixture
    def stage(self, backend: Backend) -> Iterator[Stage]:
        stage = Stage(backend)
        yield stage
        stage.close()

    @pytest.fixture
    def queue(self, stage: Stage) -> str:
        """A new, empty queue."""
        return stage.queue()


def message(queue: str, **fields: Any) -> Message:
    """Make a message with an id of its own."""
    task_id = fields.pop("id", None) or new_id()
    body = fields.pop("body", b"body of " + task_id.encode())
    return Message(task_id, body, fields.pop("headers", {"id": task_id}), queue, **fields)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the ids of what was received, in order."""
    return [delivery.message.id for delivery in deliveries]


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """Start a function in a thread; what is returned waits for its value or raises its error."""
    values: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 -- raised again in the test's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> T:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{function} still runs after {PATIENCE} s"
        if errors:
            raise errors[0]
        return values[0]

    return join


def eventually(check: Callable[[], bool], what: str, *, patience: float = PATIENCE) -> None:
    """Wait until a figure that the server settles late is right."""
    deadline = SYSTEM_CLOCK.monotonic() + patience
    while not check():
        assert SYSTEM_CLOCK.monotonic() < deadline, f"{what}: not so after {patience} s"
        SYSTEM_CLOCK.sleep(0.01)
