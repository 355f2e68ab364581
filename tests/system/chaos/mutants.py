"""Broken workers: each forgets one thing that the crash tests are there to prove.

A harness that does not catch them proves nothing. They are made from a healthy worker by wrapping
the seam in question.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, cast

from umbel import telemetry
from umbel.message import Delivery, Effects, Ending
from umbel.opened import Servers
from umbel.servers.seams import CommitReport, Committer, Consumer, Transport
from umbel.worker.launch import Worker


class _Wrapper:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class AcknowledgesEarly(_Wrapper):
    """Acknowledges what it receives before it runs."""

    def __init__(self, consumer: Consumer, committer: Committer) -> None:
        super().__init__(consumer)
        self._consumer = consumer
        self._committer = committer

    def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deliveries = self._consumer.receive(limit, timeout)
        self._committer.commit([Effects(delivery) for delivery in deliveries])
        return deliveries


class ConsumesEarly(_Wrapper):
    """A transport whose consumers acknowledge early."""

    def __init__(self, inner: Transport, committer: Committer) -> None:
        super().__init__(inner)
        self._committer = committer

    def consume(self, queues: Sequence[str], **options: Any) -> Any:
        return AcknowledgesEarly(self._inner.consume(queues, **options), self._committer)


class IgnoresStale:
    """Commits what was acknowledged early without its fence, or nothing would be committed."""

    def __init__(self, inner: Committer) -> None:
        self._inner = inner

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        if all(not each.results and not each.publish for each in effects):
            return self._inner.commit(effects)
        return self._inner.commit([replace(each, delivery=None) for each in effects])


class CommitsInTwoSteps:
    """Stores results and follow-ups first, and ends the deliveries in a second transaction."""

    def __init__(self, inner: Committer) -> None:
        self._inner = inner

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        self._inner.commit([replace(each, ending=Ending.KEEP, reason="") for each in effects])
        telemetry.emit("mutant.between", count=len(effects))
        ends = [replace(each, results=(), publish=()) for each in effects]
        return self._inner.commit(ends)


class StoresUnfenced:
    """Stores results and follow-ups whether or not it still holds the delivery."""

    def __init__(self, inner: Committer) -> None:
        self._inner = inner

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        self._inner.commit([replace(each, delivery=None) for each in effects])
        return self._inner.commit([replace(each, results=(), publish=()) for each in effects])


class ForgetsLeases(_Wrapper):
    """Does not renew the leases of its children."""

    def renew(self, consumer_ids: Collection[str], *, lease: float) -> Collection[str]:
        _ = consumer_ids, lease
        return ()


class MutantApp(_Wrapper):
    """An application whose servers are broken in one way."""

    def __init__(self, inner: Any, mutant: str) -> None:
        super().__init__(inner)
        self._mutant = mutant

    def servers(self) -> Servers:
        servers: Servers = self._inner.servers()
        committer, transport = servers.committer, servers.broker.transport
        match self._mutant:
            case "acknowledges early":
                early: Any = ConsumesEarly(transport, committer)
                return _with(servers, early, IgnoresStale(committer))
            case "commits in two steps":
                return _with(servers, transport, CommitsInTwoSteps(committer))
            case "stores unfenced":
                return _with(servers, transport, StoresUnfenced(committer))
            case "forgets leases":
                forgetful: Any = ForgetsLeases(transport)
                return _with(servers, forgetful, committer)
            case _:
                raise ValueError(self._mutant)


def mutated(worker: Worker, mutant: str) -> Worker:
    """Break a worker in the way named; "" = leave it healthy."""
    if mutant:
        worker.app = cast("Any", MutantApp(worker.app, mutant))
    return worker


def _with(servers: Servers, transport: Transport, committer: Committer) -> Servers:
    broker: Any = _Wrapper(servers.broker)
    broker.transport = transport
    return replace(servers, broker=broker, committer=committer)
