"""A session that receives from Redis lists.

Purpose: take messages from many lists and wait for them, so that no message is ever only in this
process and no thread polls.

One round trip receives (``scripts.RESERVE``): it makes due messages ready, moves a batch from the
lists into our hold, a hash under our consumer id, and returns it. Pop and hold are one step of the
server, so a crash at any moment leaves each message in a list or in a hold, and holds of the dead
go back (``recover``). A tag names one hold for ever: the numbers in tags only grow, even over a
lost lease. So a commit is fenced by the existence of its tag, and a zombie finds nothing.

The number of the last message we know of goes with every request. When a reply was lost, the server
sees an old number and gives the same messages again instead of new ones; nothing stays held unseen,
even if the request that caused it was executed only after we had connected anew.

Waiting: a request that finds nothing has read every list and every index of delayed messages, so
CLIENT TRACKING makes the server push one notice when any of them changes, whoever changes it. We
wait for that, for the next due time (which the reply told) or for ``wake``. Reading and arming are
one script: nothing can come in between.
Rejected: BRPOP and its like destroy before we hold; BLMOVE into a hold is right but waits on one
list only, and a queue has four; Celery's clients would not push to a notification list of ours.
The cost: each idle consumer of a queue is told of each message published while it is idle, and
asks. Each takes 70 µs of the server's time, so 16 of them take 1.2 ms a message, 100 take 6 ms.
TODO(#4): arm a few, and let RESERVE name the next when one of them goes to work.

Owner: the thread that calls ``receive``; ``wake`` comes from any. The link is made when needed and
dropped when it fails; the session with all it holds goes on over the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umbel import telemetry
from umbel.exceptions import TransportError
from umbel.message import Delivery
from umbel.servers.redis import scripts
from umbel.servers.redis.connection import Connections, Link, Waker, Word, text
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.ledger import revocations
from umbel.servers.redis.options import Options
from umbel.wire.envelope import unpack
from umbel.wire.names import REDELIVERED

#: Bytes of messages after which a batch is full, whatever its limit.
MOST_BYTES = 8 << 20
#: Longest wait for a notice; a server that vanished without a word is found out by then.
LONGEST_WAIT = 60.0


class RedisConsumer:
    """A session. One thread owns it, except ``wake``."""

    def __init__(
        self,
        connections: Connections,
        keys: Keys,
        options: Options,
        queues: Sequence[str],
        *,
        consumer_id: str,
        lease: float,
    ) -> None:
        self._connections = connections
        self._keys = keys
        self._monotonic = options.clock.monotonic
        self._now = options.clock.now
        self._id = consumer_id
        self._lease = int(lease * 1_000_000)
        self._held = keys.held + consumer_id
        self._rotations = self._rotate(list(queues))
        self._turn = 0
        self._queues = list(queues)
        self._queue_of = {key.encode(): queue for queue in queues for key in keys.lists(queue)}
        #: How many messages we were given.
        self._number = 0
        self._revision = 0
        #: Task id -> monotonic time at which its revocation ends.
        self._revoked: dict[str, float] = {}
        self._waker = Waker()
        self._closed = False
        self._link: Link | None = None
        try:
            self._begin(self._open_link())  # the lease begins now
        except BaseException:
            self._waker.close()
            raise

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = self._monotonic() + timeout
        while True:
            deliveries, due_in = self._reserve(limit)
            left = deadline - self._monotonic()
            if deliveries or left <= 0 or self._wait(min(left, due_in)):
                return deliveries

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        tags = sorted((each.tag[1] for each in deliveries), key=_number_of, reverse=True)
        self._connections.run(scripts.GIVE_BACK, [self._held], [tags])

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._drop_link()
        self._waker.close()
        keys = self._keys
        arguments = (keys.held, keys.consumer, keys.served, self._id, "")
        try:
            self._connections.run(scripts.END_CONSUMER, [keys.leases, keys.marks], [arguments])
        except TransportError as error:
            # The lease ends by itself, and what we held goes back then.
            telemetry.emit("consumer.abandoned", consumer_id=self._id, error=error)

    def _rotate(self, queues: list[str]) -> list[list[str]]:
        """Return RESERVE's keys for each turn: by priority; each queue is first in its turn."""
        keys = self._keys
        fixed = [keys.consumer + self._id, self._held, keys.marks, keys.revision]
        rotations = []
        for turn in range(max(1, len(queues))):
            order = [*queues[turn:], *queues[:turn]]
            by_queue = [keys.lists(queue) for queue in order]
            lists = [key for bucket in zip(*by_queue, strict=True) for key in bucket]
            pairs = [each for key in lists for each in (key, keys.delayed + key)]
            rotations.append([*fixed, *pairs])
        return rotations

    def _reserve(self, limit: int) -> tuple[list[Delivery], float]:
        """Take what is there; return it and, if it is nothing, the seconds until more is due."""
        link = self._link or self._open_link()
        self._turn = (self._turn + 1) % len(self._rotations)
        try:
            number, due_in, revision, given, marks = self._ask(link, limit)
            link.pushes.clear()  # they tell of changes before this reply
            if revision != self._revision:
                self._revoked = revocations(link, self._keys, self._monotonic)
                self._revision = revision
            deliveries = self._deliveries(given, dict(zip(marks[::2], marks[1::2], strict=True)))
            if any(each.message.not_before for each in deliveries):
                deliveries = self._park(link, deliveries)
        except BaseException:  # also what a signal raises in the middle of a reply
            self._drop_link()
            raise
        self._number = number
        return deliveries, LONGEST_WAIT if due_in < 0 else due_in / 1_000_000 + 0.0005

    def _ask(self, link: Link, limit: int) -> Any:
        keys = self._rotations[self._turn]
        arguments: tuple[Word, ...] = (self._number, limit, MOST_BYTES)
        (reply,) = link.run(scripts.RESERVE, keys, [arguments])
        if reply is None:  # the lease was lost
            self._begin(link)
            (reply,) = link.run(scripts.RESERVE, keys, [arguments])
        return reply

    def _begin(self, link: Link) -> None:
        keys = self._keys
        both = (keys.consumer + self._id, keys.leases)
        arguments: list[Word] = [self._id, self._number, self._lease, keys.served, *self._queues]
        link.run(scripts.BEGIN, both, [arguments])

    def _park(self, link: Link, deliveries: list[Delivery]) -> list[Delivery]:
        """Let those wait in the server that are not due; return the others.

        Celery's clients send what has an eta at once, and so do ours to a queue without an umbel.
        """
        now = self._now()
        early = [each for each in deliveries if each.message.not_before > now]
        if not early:
            return deliveries
        arguments: list[Word] = [self._keys.delayed]
        for each in early:
            arguments += (each.tag[1], int((each.message.not_before - now) * 1_000_000))
        link.run(scripts.PARK, [self._held], [arguments])
        return [each for each in deliveries if each.message.not_before <= now]

    def _deliveries(self, given: list[bytes], marks: dict[int, bytes]) -> list[Delivery]:
        deliveries = []
        for number in range(0, len(given), 2):
            tag = given[number]
            message, problem = unpack(given[number + 1])
            queue = self._queue_of[tag.partition(b":")[2]]
            handle = (self._held, tag)
            crashes = losses = 0
            suspect = False
            verdict = ""
            mark = marks.get(number // 2 + 1) if marks else None
            if mark is not None:
                crashes, losses, suspect, verdict = _read(mark)
            deliveries.append(
                Delivery(
                    message,
                    queue,
                    handle,
                    crashes,
                    losses,
                    suspect,
                    mark is not None or bool(message.headers.get(REDELIVERED)),
                    self._is_revoked(message.id) if self._revoked else False,
                    verdict,
                    problem,
                )
            )
        return deliveries

    def _is_revoked(self, task_id: str) -> bool:
        return self._revoked.get(task_id, 0.0) > self._monotonic()

    def _wait(self, seconds: float) -> bool:
        """Wait for a notice or a call of ``wake``; return whether it was ``wake``."""
        assert self._link is not None
        try:
            if any(self._link.received()):
                return False
            return self._link.wait(seconds, self._waker)
        except BaseException:
            self._drop_link()
            raise

    def _open_link(self) -> Link:
        link = self._connections.open()
        link.call("CLIENT", "TRACKING", "ON", "NOLOOP")
        self._link = link
        return link

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _number_of(tag: bytes) -> int:
    return int(tag.partition(b":")[0])


def _read(mark: bytes) -> tuple[int, int, bool, str]:
    crashes, losses, suspect, verdict = text(mark).split(" ", 3)
    return int(crashes), int(losses), suspect == "1", verdict
