"""The seams: what umbel asks of a server, as Protocols. Every guarantee stands here.

A ``Server`` is what ``open(url)`` returns: the parts of one server that this process talks to. It
belongs to the program, is shared by its threads and reopens itself after a fork. ``Consumer`` and
``Watch`` are sessions with an end and one owning thread.

    Server ─┬─ transport   Transport     publish, declare, consume, recover
            ├─ results     ResultStore   what tasks returned
            ├─ ledger      Ledger | None dead letters, revocations, node records, leases
            ├─ joins       Joins | None  headers of chords
            ├─ timetable   Timetable | None   schedules (in a module of its own)
            ├─ bus         Bus | None    remote control: to all nodes at once, and their answers
            └─ committer   Committer     performs effects: atomic where one server holds all of it

Times that matter to several machines (due times, leases) are taken from the server's clock where it
has one. Errors of drivers are translated into ``umbel.exceptions`` at this seam, their cause kept.
The contract suites in ``umbel.testing.contract`` prove what the docstrings promise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from umbel.exceptions import PublishError
from umbel.message import Delivery, Effects, Join, Message, ResultRecord
from umbel.servers.timetable import Timetable
from umbel.topology import Binding, Topology


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do. A test compares this with the table in the design."""

    #: Effects are one atomic fenced step ("atomic") or steps in a safe order ("ordered").
    commit: str
    #: Delayed messages wait in the server, precise to this many seconds.
    delay_precision: float
    exchange_types: frozenset[str]
    #: How many distinct priorities it tells apart.
    priorities: int
    #: Dead letters can be listed and requeued.
    dead_letters: bool
    #: Revocations and leases survive a restart of every worker.
    durable_ledger: bool
    #: What "stored" means when publish returns, in one sentence for the docs and the banner.
    stored: str
    #: Its calls compute in this process, maybe while others wait for their end: a worker's threads
    #: had better let them run undisturbed.
    embedded: bool = False
    #: How it finds a message by its task's id: with its position in the queue ("exact"), with one
    #: that others may have changed while it looked ("about"), or not at all ("").
    finds: str = ""
    #: It counts how often a message is given back, and may bury it for that.
    counts_returns: bool = False


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages a queue has."""

    ready: int = 0
    delayed: int = 0
    held: int = 0
    #: Wall time at which the oldest ready message was sent; None = none, or not known.
    oldest_at: float | None = None
    #: How many sessions receive from it; None = this server does not know.
    consumers: int | None = None
    #: The figures are the server's estimate.
    estimate: bool = False
    #: The server tells how many are held.
    tells_held: bool = True


@dataclass(frozen=True, slots=True)
class Charge:
    """What stands against a message: see the fields of ``Delivery`` of the same names."""

    crashes: int = 0
    suspect: bool = False
    verdict: str = ""


#: Nothing stands against it.
NO_CHARGE = Charge()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message is."""

    #: "ready", "delayed" or "held".
    state: str
    queue: str
    message: Message
    #: Ready: how many would be received before it.
    ahead: int | None = None
    #: Delayed: wall time at which it becomes ready.
    due_at: float | None = None
    #: Held: by whom.
    consumer_id: str = ""


@dataclass(frozen=True, slots=True)
class DeadConsumer:
    """A consumer whose process is known to be dead, and the ids of the messages it was running."""

    consumer_id: str
    running: tuple[str, ...] = ()
    #: Why what it was running must not run again; kept with those messages as Delivery.verdict and
    #: then no crash is charged. "" = it may run again.
    verdict: str = ""

    @property
    def charge(self) -> Charge:
        """What its death adds to each message that it was running."""
        if self.verdict:
            return Charge(verdict=self.verdict)
        return Charge(crashes=1) if len(set(self.running)) == 1 else Charge(suspect=True)


class Transport(Protocol):
    """Messages, from publishers to consumers. Thread-safe."""

    capabilities: Capabilities

    def declare(self, topology: Topology) -> None:
        """Make exchanges, queues and bindings exist. Idempotent.

        Raises TopologyConflict when one exists with other properties.
        """
        ...

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        """Store all messages, in order, in one round trip; on return they are stored.

        A message goes to every queue that its exchange and key lead to; the empty exchange leads to
        the queue named by the key. ``deadline`` is in monotonic time.
        Raises Unroutable or PublishError naming the messages refused (the others are stored),
        ConnectionLost when it is not known whether they are stored, TimeoutError at the deadline.
        """
        ...

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> Consumer:
        """Begin a session that receives from these queues, earlier ones not preferred.

        ``consumer_id`` is unique for ever. What the session holds is its own until it gives it
        back, commits it, or its lease of ``lease`` seconds ends without being renewed.
        """
        ...

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        """Extend the leases of these consumers by ``lease`` seconds from now; return those lost."""
        ...

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        """Give back what dead consumers held; return how many messages. Anyone may, any time.

        Of each of ``dead``, what it was running is charged: one running message counts a crash,
        several become suspects uncounted; what it had not begun goes back free and first in its
        queue. What consumers held whose lease ended goes back with a loss counted. The consumers
        are fenced from then on: nothing they held can be committed.
        """
        ...

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        """Count the messages of each queue; a queue that does not exist is absent."""
        ...

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        """Return where the message of this task is, in these queues or held; () = nowhere.

        It is for people who ask: it may read through all that waits, but keeps nobody waiting long.
        Always () where ``Capabilities.finds`` says that this server cannot.
        """
        ...

    def queues(self) -> Sequence[str]:
        """Return the names of all queues that exist."""
        ...

    def bindings(self) -> Sequence[Binding] | None:
        """Return the bindings that exist, without those of every queue to the empty exchange.

        None = this server does not tell.
        """
        ...

    def purge(self, queues: Sequence[str]) -> int:
        """Delete what waits in these queues, ready or delayed; return how many."""
        ...

    def close(self) -> None:
        """Close connections. The next call opens them again."""
        ...


class Consumer(Protocol):
    """A session that receives. One thread owns it; ``wake`` may be called from any."""

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Wait at most ``timeout`` seconds for one message, then return up to ``limit`` at once.

        Of what is due, higher priority comes first, then earlier sent. There is no moment in which
        a message exists only in this process. Messages that were revoked or have expired are
        returned, marked or not, so that their callers get an answer; bytes that are no message are
        returned with ``problem``. Returns early, perhaps empty, after ``wake``.
        Raises ConnectionLost; what the failed call had reserved is then returned by the next one,
        and the session, with all it holds, goes on over a new connection.
        """
        ...

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return messages that were never started, to the front of their queues, uncounted."""
        ...

    def wake(self) -> None:
        """Make a waiting ``receive`` return, or the next one not wait. Any thread, signal-safe."""
        ...

    def close(self) -> None:
        """End the session; whatever it still holds is given back. Idempotent."""
        ...


class ResultStore(Protocol):
    """Results by task id. Thread-safe."""

    #: What may be why a result does not come, for people; "" = nothing in particular.
    caveat: str
    #: Whether anybody can have them; else each is sent to its caller, who alone has it.
    shared: bool

    @property
    def reply_to(self) -> str:
        """What a publisher puts into ``Message.reply_to`` so that results find it; "" = not needed.

        Another one in a forked child.
        """
        ...

    def put(self, records: Sequence[ResultRecord]) -> None:
        """Store all in one round trip, and tell who watches. A stored SUCCESS is never replaced."""
        ...

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the metas that exist, by id, in one round trip."""
        ...

    def watch(self) -> Watch:
        """Begin a session that is told of results as they come."""
        ...

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete results."""
        ...

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:
        """Keep what a group consists of for so many seconds (None = for ever).

        It takes the place of what was saved under this id before. Raises ImproperlyConfigured where
        results are sent to their callers instead of being kept.
        """
        ...

    def saved_group(self, group_id: str) -> bytes | None:
        """Return what was saved under this id, if it is still there."""
        ...

    def forget_group(self, group_id: str) -> None:
        """Delete what was saved under this id; the members' results stay."""
        ...

    def close(self) -> None:
        """Close connections. The next call opens them again."""
        ...


class Watch(Protocol):
    """A session that follows results. ``add``, ``discard``, ``wake`` may be called from any thread.

    The rest is for its owner: one thread at a time, which may hand it on to another thread.
    """

    def add(self, task_ids: Iterable[str]) -> None:
        """Follow these ids too; what is already stored for them is reported by the next receive."""
        ...

    def discard(self, task_ids: Iterable[str]) -> None:
        """Follow these no more."""
        ...

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        """Wait up to ``timeout`` seconds; return new metas, by id, in the order of their storing.

        Every final meta of a followed id is reported at least once; of several intermediate ones in
        a row the last may stand for all. Waits for a push of the server where it has one.
        """
        ...

    def wake(self) -> None:
        """Make a ``receive`` that waits return, or the next one not wait. Any thread."""
        ...

    def close(self) -> None:
        """End the session. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be tried again, where one can see it."""

    #: The server's handle of the letter, as text.
    key: str
    message: Message
    queue: str
    reason: str
    died_at: float
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Revocation:
    """That a task shall not run."""

    #: Who asked for it, for people.
    by: str = ""
    #: Wall time.
    at: float = 0.0
    #: Name of the signal that ends it where it runs; "" = what runs already goes on.
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A complete join: what its members left."""

    context: bytes
    #: Parts in the order of their indexes.
    parts: Sequence[bytes]
    #: What a Celery client saved of the header (see ``wire.result.decode_group``), if it did.
    shape: bytes | None = None


class Joins(Protocol):
    """Sets of members that bodies of chords wait for. Thread-safe.

    Who arrives twice counts once. A join is complete when as many have arrived as it was said to
    have, and is then closed once, by the effects that name it (``Committer``).
    """

    def open(self, joins: Sequence[Join]) -> None:
        """Say how many members joins have. Idempotent; arrivals may come before."""
        ...

    def enlarge(self, join_id: str, members: int) -> None:
        """Add members to a join that is not complete."""
        ...

    def joined(self, join_ids: Sequence[str]) -> dict[str, Joined]:
        """Return what the members of these left, of those that are complete and not closed."""
        ...

    def unclosed(self, *, older_than: float, limit: int = 100) -> Sequence[str]:
        """Return joins that have been complete for so many seconds and are not closed.

        Who was to close them is dead, or about to. Ones that a dead Celery worker had claimed are
        among them.
        """
        ...


class Ledger(Protocol):
    """The durable small state beside the queues. Thread-safe.

    It may be kept for a broker on another server that has no place for one (``companion``);
    ``bury``, ``charge``, ``charges`` and ``absolve`` are for that.
    """

    def dead_letters(self, *, limit: int = 100, after: str = "") -> Sequence[DeadLetter]:
        """Return dead letters, oldest first, from behind the one whose key is ``after``."""
        ...

    def requeue(self, keys: Sequence[str]) -> int:
        """Send dead letters to their queues again, with their counts at zero; return how many."""
        ...

    def drop(self, keys: Sequence[str]) -> int:
        """Delete dead letters; return how many."""
        ...

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep messages of another server as dead letters; their keys and times are given here."""
        ...

    def charge(self, dead: Sequence[DeadConsumer], *, expires_in: float) -> None:
        """Count against messages what ``Transport.recover`` says, for each of the dead once.

        It is remembered for ``expires_in`` seconds.
        """
        ...

    def charges(self, message_ids: Sequence[str]) -> dict[str, Charge]:
        """Return what stands against these messages, by id; those without a charge are absent."""
        ...

    def absolve(self, message_ids: Sequence[str]) -> None:
        """Forget what stands against these messages: they have ended."""
        ...

    def revoke(
        self, task_ids: Sequence[str], *, expires_in: float, by: str = "", signal: str = ""
    ) -> None:
        """Remember that these shall not run; deliveries of them are marked from now on.

        What is said last of a task counts.
        """
        ...

    def revoked(self, task_ids: Sequence[str]) -> dict[str, Revocation]:
        """Return which of these are revoked, and how, in one round trip."""
        ...

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        """Keep a node's record (JSON-able) for ``expires_in`` seconds."""
        ...

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the records of nodes that live, by name."""
        ...

    def retire(self, node: str) -> None:
        """Delete a node's record."""
        ...

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        """Take or renew the lease ``name``; return its fencing token, or None if another holds it.

        The token grows with each change of holder and stays while one holder renews.
        """
        ...

    def release(self, name: str, holder: str) -> None:
        """Give the lease up, if ``holder`` has it."""
        ...


class Bus(Protocol):
    """Best-effort messages beside the queues: who listens gets them, nobody else. Thread-safe."""

    @property
    def passes_queues_by(self) -> bool:
        """What others broadcast to a fanout exchange does not reach the queues bound to it."""
        ...

    def broadcast(self, message: Message) -> None:
        """Send to all who listen to the message's exchange."""
        ...

    def post(self, message: Message) -> None:
        """Put into the mailbox that is bound to the message's exchange and key, if there is one."""
        ...

    def listen(self, exchange: str) -> Listener:
        """Begin a session that gets what is broadcast to this exchange from now on."""
        ...

    def mailbox(self, exchange: str, key: str) -> Mailbox:
        """Begin a session that gets what is posted to this exchange and key from now on."""
        ...


class Mailbox(Protocol):
    """A session that gets messages. One thread owns it."""

    def receive(self, timeout: float) -> list[Message]:
        """Wait up to ``timeout`` seconds for messages, and return what there is."""
        ...

    def close(self) -> None:
        """End the session. Idempotent."""
        ...


class Listener(Mailbox, Protocol):
    """A session that hears. It goes on after ConnectionLost, without what was said meanwhile."""

    def wake(self) -> None:
        """Make a ``receive`` that waits return, or the next one not wait. Any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Effects that a commit did not perform, and what was wrong with their messages."""

    effects: Effects
    error: PublishError


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What a commit did."""

    #: Deliveries that were no longer ours; nothing of their effects took place.
    stale: tuple[Delivery, ...] = ()
    #: Effects of which a message cannot be stored; their deliveries are held as before.
    refused: tuple[Refusal, ...] = ()
    #: Joins that the arrivals completed: their bodies are to be sent.
    joined: tuple[str, ...] = ()


class Committer(Protocol):
    """Performs effects. Used by the thread that owns the consumer of the deliveries."""

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        """Perform all effects, each only if its delivery is still ours, in one round trip.

        Per effect all or nothing on servers that are "atomic"; on "ordered" ones first the messages
        to publish, then the results, then the end of the delivery. If one of its messages cannot be
        stored, an effect is refused: nothing of it takes place (on "ordered" servers its other
        messages are sent), so that its delivery can be ended otherwise.
        Effects that close a join take place once, whoever commits them, and else are passed over.
        Raises ConnectionLost; then nothing is known, and the same call may be repeated.
        """
        ...


class Server(Protocol):
    """The parts of one server. ``results``, ``ledger`` and ``committer`` may serve another's.

    Derive from it what has nothing to say to ``committer_with`` and ``warnings``.
    """

    #: Without its password; for banners and errors.
    display_url: str
    transport: Transport
    results: ResultStore
    ledger: Ledger | None
    bus: Bus | None
    #: None = chords cannot be joined here.
    joins: Joins | None
    #: None = schedules cannot be kept here.
    timetable: Timetable | None
    committer: Committer

    def committer_with(self, store: Server) -> Committer | None:  # noqa: ARG002 -- for those who can
        """Return what commits here, with results and joins in that store, all in one atomic step.

        None if it cannot.
        """
        return None

    def warnings(self) -> Sequence[str]:
        """Return what is dangerous about how the server is set up, for operators. May connect."""
        return ()

    def close(self) -> None:
        """Close all of it. Idempotent."""
        ...
