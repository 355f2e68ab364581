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

Waiting: who was given nothing asks once more, by a script that reads every list and every index of
delayed messages, so that CLIENT TRACKING makes the server push one notice when any of them changes,
whoever changes it. We wait for that, for the next due time (which the reply told) or for ``wake``.
Reading and arming are one script: nothing can come in between.
Of many that wait for a queue only four are armed so, or each message would make all of them ask:
a thousand take 70 ms of the server's time for one message, four and their successor 0.3. The others
sleep until RESERVE wakes them over a channel of their own: a successor when an armed one goes to
work, two more when one took all it can carry and left some. So a burst wakes a crowd in a few
rounds. Should all that are armed die at once, the first sleeper that looks finds out (``LOOK``).
A server or proxy that does not track keys is asked every ``polling_interval`` seconds.
Rejected: BRPOP and its like destroy before we hold; BLMOVE into a hold is right but waits on one
list only, and a queue has four; Celery's clients would not push to a notification list of ours.

Owner: the thread that calls ``receive``; ``wake`` comes from any. The link is made when needed and
dropped when it fails; the session with all it holds goes on over the next one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from umbel import telemetry
from umbel.exceptions import ConnectionLost, TransportError
from umbel.message import Delivery, Message
from umbel.servers.redis import scripts
from umbel.servers.redis.connection import Connections, Link, Waker, Word, pack, text
from umbel.servers.redis.ending import end
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.ledger import revocations
from umbel.servers.redis.limits import bury_old, ttls
from umbel.servers.redis.options import Options
from umbel.wire.envelope import unpack
from umbel.wire.names import REDELIVERED, tree_of

#: Bytes of messages after which a batch is full, whatever its limit.
MOST_BYTES = 8 << 20
#: Seconds after which one that waits looks by itself: if all that are armed died, or the server
#: vanished without a word.
LOOK = 8.0


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
        self._queues = list(queues)
        self._rotations = [self._rotated(turn) for turn in range(max(1, len(queues)))]
        self._turn = 0
        self._queue_of = {key.encode(): queue for queue in queues for key in keys.lists(queue)}
        #: How many messages we were given.
        self._number = 0
        #: Monotonic time until which we need not ask, unless the server tells us something.
        self._look_at = 0.0
        self._has_waited = False
        self._revision = 0
        #: Task id -> monotonic time at which its revocation ends.
        self._revoked: dict[str, float] = {}
        #: Queue -> seconds that a message may wait in it, if there is a limit.
        self._ttls: dict[str, float] = {}
        self._polling_interval = options.polling_interval
        #: What makes the server track what the next script reads; nothing, if it does not.
        self._tracked = b""
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
            now = self._monotonic()
            if now >= deadline or now >= self._look_at:
                deliveries = self._reserve(limit)
                if deliveries or now >= deadline:
                    return deliveries
                self._arm()
            if self._wait(min(deadline, self._look_at)):
                return []

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
        try:
            end(self._connections, self._keys, scripts.END_CONSUMER, (self._id, ""))
        except TransportError as error:
            # The lease ends by itself, and what we held goes back then.
            telemetry.emit("consumer.abandoned", consumer_id=self._id, error=error)

    def _rotated(self, turn: int) -> tuple[list[str], list[str]]:
        """Return RESERVE's keys and last arguments for a turn: its queue first, by priority."""
        keys = self._keys
        order = [*self._queues[turn:], *self._queues[:turn]]
        by_queue = [keys.lists(queue) for queue in order]
        lists = [key for bucket in zip(*by_queue, strict=True) for key in bucket]
        pairs = [each for key in lists for each in (key, keys.delayed + key)]
        fixed = [keys.consumer + self._id, self._held, keys.marks, keys.revision]
        return [*fixed, *pairs], [self._id, keys.armed, keys.idle, keys.wake, *order]

    def _reserve(self, limit: int) -> list[Delivery]:
        """Take what is there."""
        link = self._link or self._open_link()
        self._turn = (self._turn + 1) % len(self._rotations)
        try:
            number, revision, given, marks = self._ask(link, limit)
            if revision != self._revision:
                self._revoked = revocations(link, self._keys, self._monotonic)
                self._revision = revision
            deliveries = self._deliveries(given, dict(zip(marks[::2], marks[1::2], strict=True)))
            if any(each.message.not_before for each in deliveries):
                deliveries = self._park(link, deliveries)
            if self._ttls and deliveries:
                deliveries = bury_old(link, self._keys, deliveries, self._ttls, self._now())
        except BaseException:  # also what a signal raises in the middle of a reply
            self._drop_link()
            raise
        self._number = number
        if given:
            self._has_waited, self._look_at = False, 0.0
        return deliveries

    def _ask(self, link: Link, limit: int) -> Any:
        keys, about = self._rotations[self._turn]
        waited = "1" if self._has_waited else ""
        arguments: list[Word] = [self._number, limit, MOST_BYTES, waited, *about]
        (reply,) = link.run(scripts.RESERVE, keys, [arguments])
        if reply is None:  # the lease was lost
            self._begin(link)
            (reply,) = link.run(scripts.RESERVE, keys, [arguments])
        return reply

    def _arm(self) -> None:
        """Let the server tell us; note until when we need not look if it does not."""
        link = self._link or self._open_link()
        keys, about = self._rotations[self._turn]
        self._has_waited = True
        try:
            link.pushes.clear()  # they tell of changes before this
            (due_in,) = link.run(scripts.ARM, keys, [about], before=self._tracked)
        except BaseException:
            self._drop_link()
            raise
        wait = (LOOK if self._tracked else self._polling_interval) * random.uniform(0.75, 1.0)
        if due_in >= 0:
            wait = min(wait, due_in / 1_000_000 + 0.0005) if due_in else 0.0
        self._look_at = self._monotonic() + wait

    def _begin(self, link: Link) -> None:
        keys = self._keys
        both = (keys.consumer + self._id, keys.leases)
        arguments: list[Word] = [self._id, self._number, self._lease, keys.served, *self._queues]
        link.run(scripts.BEGIN, both, [arguments])
        self._ttls = ttls(link, keys, self._queues)

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
                    self._is_revoked(message) if self._revoked else False,
                    verdict,
                    problem,
                )
            )
        return deliveries

    def _is_revoked(self, message: Message) -> bool:
        now = self._monotonic()
        ids = (message.id, tree_of(message.headers))
        return any(self._revoked.get(each, 0.0) > now for each in ids)

    def _wait(self, until: float) -> bool:
        """Wait for a notice or a call of ``wake``; return whether it was ``wake``."""
        link = self._link
        assert link is not None
        try:
            woken = not self._is_told(link) and link.wait(
                max(until - self._monotonic(), 0.0), self._waker
            )
            self._is_told(link)
        except BaseException:
            self._drop_link()
            raise
        return woken

    def _is_told(self, link: Link) -> bool:
        """Tell whether the server has said that we should look."""
        told = link.pushes + list(link.received())
        link.pushes.clear()
        if told:
            self._look_at = 0.0
        return bool(told)

    def _open_link(self) -> Link:
        link = self._connections.open()
        try:
            link.call("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP")
            self._tracked = pack("CLIENT", "CACHING", "YES")
        except ConnectionLost:
            raise
        except TransportError:  # a proxy, or an access list
            self._tracked = b""
        # The answer is a push, which comes before the next reply.
        link.send(pack("SUBSCRIBE", self._keys.wake + self._id))
        self._link = link
        # What was armed was the former connection.
        self._has_waited, self._look_at = True, 0.0
        return link

    def _drop_link(self) -> None:
        self._look_at = 0.0
        if self._link is not None:
            self._link.close()
            self._link = None


def _number_of(tag: bytes) -> int:
    return int(tag.partition(b":")[0])


def _read(mark: bytes) -> tuple[int, int, bool, str]:
    crashes, losses, suspect, verdict = text(mark).split(" ", 3)
    return int(crashes), int(losses), suspect == "1", verdict
