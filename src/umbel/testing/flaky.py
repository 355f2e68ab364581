"""A fault injector around any real server.

    server = FlakyServer(servers.open(url), script(publish=[AFTER], commit=[None, BEFORE]))
    server = FlakyServer(servers.open(url), chance(7, {"commit": {AFTER: 0.1}, "*": {DELAY: 0.05}}))

A *plan* says for each operation which fault its next call meets. It is data: a script, list by
list, or chance from a seed. The faults are those of a network:

    BEFORE     the request is lost: not performed, ConnectionLost
    AFTER      the answer is lost: performed, ConnectionLost (the ambiguous case)
    DELAY      performed after some time
    DROP       the connection ends: not performed, ConnectionLost; parts are closed and reopen
    DUPLICATE  performed twice; for ``receive``, what was received is delivered once more later

Operations have the names of their methods, except that ``Watch.receive`` is "follow". What must
never fail (``wake``, ``close``, ``add``, ``discard``) is passed on as it is. Sessions go on after a
fault, as the seams promise: what a lost answer of a consumer or watch brought is in the next one.

Every fault that happened is counted in ``FlakyServer.faults.counts``, so that a test can say that
it met what it was written for. Thread-safe; which of two threads meets a fault is not determined.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ConnectionLost, UmbelError
from umbel.message import Delivery, Effects, Join, Message, ResultRecord
from umbel.servers.seams import (
    Charge,
    CommitReport,
    Committer,
    Consumer,
    DeadConsumer,
    DeadLetter,
    Depth,
    Joined,
    Joins,
    Ledger,
    Place,
    ResultStore,
    Revocation,
    Server,
    Transport,
    Watch,
)
from umbel.servers.timetable import Progress, Tick, TickReport, Timetable
from umbel.telemetry import emit
from umbel.topology import Binding, Topology

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call."""

    kind: str
    #: DELAY: how long.
    seconds: float = 0.0


BEFORE = Fault("before")
AFTER = Fault("after")
DELAY = Fault("delay", 0.01)
DROP = Fault("drop")
DUPLICATE = Fault("duplicate")

#: Says which fault the next call of an operation meets.
Plan = Callable[[str], Fault | None]


def script(**faults: Iterable[Fault | None]) -> Plan:
    """Return the plan that gives each operation these faults, call by call, and then none."""
    lists: dict[str, Iterator[Fault | None]] = {name: iter(each) for name, each in faults.items()}
    return lambda operation: next(lists.get(operation, iter(())), None)


def chance(seed: int, rates: Mapping[str, Mapping[Fault, float]]) -> Plan:
    """Return the plan that throws dice; the rates under "*" are for operations not named."""
    dice = random.Random(seed)

    def plan(operation: str) -> Fault | None:
        thrown = dice.random()
        for fault, rate in rates.get(operation, rates.get("*", {})).items():
            thrown -= rate
            if thrown < 0:
                return fault
        return None

    return plan


class Faults:
    """A plan at work, and the count of what it did by (operation, kind)."""

    def __init__(self, plan: Plan, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._plan = plan
        self._clock = clock
        self._planning = threading.Lock()

    def call(
        self,
        operation: str,
        action: Callable[[], T],
        *,
        drop: Callable[[], None] = lambda: None,
        again: Callable[[T], Any] | None = None,
    ) -> T:
        """Perform the action with the fault that the plan has for it."""
        fault = self._next(operation)
        if fault is None:
            return action()
        if fault.kind == "delay":
            self._clock.sleep(fault.seconds)
            return action()
        if fault.kind == "duplicate":
            value = action()
            _ = again(value) if again is not None else action()
            return value
        if fault.kind == "after":
            with suppress(UmbelError):  # a refusal is an answer, and answers are lost
                action()
        elif fault.kind == "drop":
            drop()
        raise ConnectionLost(f"injected: {operation} failed ({fault.kind})")

    def _next(self, operation: str) -> Fault | None:
        with self._planning:
            fault = self._plan(operation)
            if fault is not None:
                self.counts[operation, fault.kind] += 1
        if fault is not None:
            emit("fault.injected", operation=operation, kind=fault.kind)
        return fault


class FlakyServer:
    """A server all of whose parts meet faults."""

    def __init__(self, inner: Server, plan: Plan, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.faults = Faults(plan, clock=clock)
        self.display_url = inner.display_url
        self.transport: Transport = FlakyTransport(inner.transport, self.faults)
        self.results: ResultStore = FlakyResults(inner.results, self.faults)
        self.ledger: Ledger | None = inner.ledger and FlakyLedger(inner.ledger, self.faults)
        self.bus = inner.bus
        self.joins: Joins | None = inner.joins and FlakyJoins(inner.joins, self.faults)
        self.timetable: Timetable | None = inner.timetable and FlakyTimetable(
            inner.timetable, self.faults
        )
        self.warnings = inner.warnings
        self.committer_with = inner.committer_with
        self.committer: Committer = FlakyCommitter(inner.committer, self.faults)
        self._inner = inner

    def close(self) -> None:
        self._inner.close()


class FlakyTransport:
    def __init__(self, inner: Transport, faults: Faults) -> None:
        self.capabilities = inner.capabilities
        self._inner = inner
        self._faults = faults

    def declare(self, topology: Topology) -> None:
        self._call("declare", lambda: self._inner.declare(topology))

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        self._call("publish", lambda: self._inner.publish(messages, deadline=deadline))

    def consume(self, queues: Sequence[str], *, consumer_id: str, lease: float) -> Consumer:
        begin = self._inner.consume
        inner = self._faults.call(
            "consume",
            lambda: begin(queues, consumer_id=consumer_id, lease=lease),
            again=_leave,  # the id is unique for ever
        )
        return FlakyConsumer(inner, self._inner, self._faults)

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        return self._call("renew", lambda: self._inner.renew(consumer_ids, lease=lease))

    def recover(self, dead: Sequence[DeadConsumer] = ()) -> int:
        return self._call("recover", lambda: self._inner.recover(dead))

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        return self._call("depth", lambda: self._inner.depth(queues))

    def find(self, task_id: str, queues: Sequence[str]) -> Sequence[Place]:
        return self._call("find", lambda: self._inner.find(task_id, queues))

    def queues(self) -> Sequence[str]:
        return self._call("queues", self._inner.queues)

    def bindings(self) -> Sequence[Binding] | None:
        return self._call("bindings", self._inner.bindings)

    def purge(self, queues: Sequence[str]) -> int:
        return self._call("purge", lambda: self._inner.purge(queues))

    def close(self) -> None:
        self._inner.close()

    def _call(self, operation: str, action: Callable[[], T]) -> T:
        return self._faults.call(operation, action, drop=self._inner.close)


class FlakyConsumer:
    def __init__(self, inner: Consumer, transport: Transport, faults: Faults) -> None:
        self._inner = inner
        self._transport = transport
        self._faults = faults
        #: Reserved by a receive whose answer was lost: returned by the next.
        self._unseen: list[Delivery] = []

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        def action() -> list[Delivery]:
            if not self._unseen:
                self._unseen = self._inner.receive(limit, timeout)
            return self._unseen[:limit]

        deliveries = self._faults.call("receive", action, again=self._deliver_again)
        del self._unseen[: len(deliveries)]
        return deliveries

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self._faults.call("give_back", lambda: self._inner.give_back(deliveries))

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()

    def _deliver_again(self, deliveries: Sequence[Delivery]) -> None:
        copies = [_straight_to_its_queue(each) for each in deliveries]
        if copies:
            self._transport.publish(copies, deadline=SYSTEM_CLOCK.monotonic() + 5.0)


class FlakyResults:
    def __init__(self, inner: ResultStore, faults: Faults) -> None:
        self.caveat = inner.caveat
        self.shared = inner.shared
        self._inner = inner
        self._faults = faults

    @property
    def reply_to(self) -> str:
        return self._inner.reply_to

    def put(self, records: Sequence[ResultRecord]) -> None:
        self._call("put", lambda: self._inner.put(records))

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        return self._call("get", lambda: self._inner.get(task_ids))

    def watch(self) -> Watch:
        return FlakyWatch(self._call("watch", self._inner.watch), self._faults)

    def forget(self, task_ids: Sequence[str]) -> None:
        self._call("forget", lambda: self._inner.forget(task_ids))

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:
        save = self._inner.save_group
        self._call("save_group", lambda: save(group_id, data, expires_in=expires_in))

    def saved_group(self, group_id: str) -> bytes | None:
        return self._call("saved_group", lambda: self._inner.saved_group(group_id))

    def forget_group(self, group_id: str) -> None:
        self._call("forget_group", lambda: self._inner.forget_group(group_id))

    def close(self) -> None:
        self._inner.close()

    def _call(self, operation: str, action: Callable[[], T]) -> T:
        return self._faults.call(operation, action, drop=self._inner.close)


class FlakyWatch:
    def __init__(self, inner: Watch, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        #: Reported by a receive whose answer was lost: reported again by the next.
        self._unread: list[tuple[str, bytes]] = []

    def add(self, task_ids: Iterable[str]) -> None:
        self._inner.add(task_ids)

    def discard(self, task_ids: Iterable[str]) -> None:
        self._inner.discard(task_ids)

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        def action() -> list[tuple[str, bytes]]:
            self._unread += self._inner.receive(0.0 if self._unread else timeout)
            return list(self._unread)

        news = self._faults.call("follow", action, again=_leave)
        self._unread.clear()
        return news

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()


class FlakyLedger:
    def __init__(self, inner: Ledger, faults: Faults) -> None:
        self._inner = inner
        self._call = faults.call

    def dead_letters(self, *, limit: int = 100, after: str = "") -> Sequence[DeadLetter]:
        find = self._inner.dead_letters
        return self._call("dead_letters", lambda: find(limit=limit, after=after))

    def requeue(self, keys: Sequence[str]) -> int:
        return self._call("requeue", lambda: self._inner.requeue(keys))

    def drop(self, keys: Sequence[str]) -> int:
        return self._call("drop", lambda: self._inner.drop(keys))

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        self._call("bury", lambda: self._inner.bury(letters))

    def charge(self, dead: Sequence[DeadConsumer], *, expires_in: float) -> None:
        self._call("charge", lambda: self._inner.charge(dead, expires_in=expires_in))

    def charges(self, message_ids: Sequence[str]) -> dict[str, Charge]:
        return self._call("charges", lambda: self._inner.charges(message_ids))

    def absolve(self, message_ids: Sequence[str]) -> None:
        self._call("absolve", lambda: self._inner.absolve(message_ids))

    def revoke(
        self, task_ids: Sequence[str], *, expires_in: float, by: str = "", signal: str = ""
    ) -> None:
        revoke = self._inner.revoke
        self._call("revoke", lambda: revoke(task_ids, expires_in=expires_in, by=by, signal=signal))

    def revoked(self, task_ids: Sequence[str]) -> dict[str, Revocation]:
        return self._call("revoked", lambda: self._inner.revoked(task_ids))

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        tell = self._inner.announce
        self._call("announce", lambda: tell(node, record, expires_in=expires_in))

    def nodes(self) -> dict[str, dict[str, Any]]:
        return self._call("nodes", self._inner.nodes)

    def retire(self, node: str) -> None:
        self._call("retire", lambda: self._inner.retire(node))

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        return self._call("acquire", lambda: self._inner.acquire(name, holder, lease=lease))

    def release(self, name: str, holder: str) -> None:
        self._call("release", lambda: self._inner.release(name, holder))


class FlakyJoins:
    def __init__(self, inner: Joins, faults: Faults) -> None:
        self._inner = inner
        self._call = faults.call

    def open(self, joins: Sequence[Join]) -> None:
        self._call("open", lambda: self._inner.open(joins))

    def enlarge(self, join_id: str, members: int) -> None:
        self._call("enlarge", lambda: self._inner.enlarge(join_id, members))

    def joined(self, join_ids: Sequence[str]) -> dict[str, Joined]:
        return self._call("joined", lambda: self._inner.joined(join_ids))

    def unclosed(self, *, older_than: float, limit: int = 100) -> Sequence[str]:
        find = self._inner.unclosed
        return self._call("unclosed", lambda: find(older_than=older_than, limit=limit))


class FlakyTimetable:
    def __init__(self, inner: Timetable, faults: Faults) -> None:
        self._inner = inner
        self._call = faults.call

    def entries(self, table: str) -> Mapping[str, str]:
        return self._call("entries", lambda: self._inner.entries(table))

    def put(self, table: str, name: str, entry: str | None, *, before: str | None) -> bool:
        return self._call("keep", lambda: self._inner.put(table, name, entry, before=before))

    def revision(self, table: str) -> int:
        return self._call("revision", lambda: self._inner.revision(table))

    def progress(self, table: str, names: Sequence[str] | None = None) -> Mapping[str, Progress]:
        return self._call("progress", lambda: self._inner.progress(table, names))

    def leader(self, table: str) -> str | None:
        return self._call("leader", lambda: self._inner.leader(table))

    def advance(self, table: str, ticks: Sequence[Tick], *, token: int) -> TickReport:
        return self._call("advance", lambda: self._inner.advance(table, ticks, token=token))


class FlakyCommitter:
    def __init__(self, inner: Committer, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        return self._faults.call("commit", lambda: self._inner.commit(effects))


def _leave(value: object) -> None:
    """Do not do it twice."""


def _straight_to_its_queue(delivery: Delivery) -> Message:
    return replace(delivery.message, exchange="", routing_key=delivery.queue)
