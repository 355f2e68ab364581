"""Effects in a safe order, where they cannot be one atomic step.

That is so on brokers without a place for results (RabbitMQ), and wherever broker and result store
are different servers. The order makes sure that whoever dies in the middle leaves too much, never
too little:

    do we still hold it? ──> publish follow-ups, confirmed ──> store results ──> end the delivery
          │                        │
          └ no: stale, nothing     └ refused: nothing more of this effect

Each arrow is one round trip for all effects of a call. Arrivals at a join are stored, and joins are
closed, together with the results, by the store's own committer; joins are opened before the
messages of their members are sent. A death before the last step redelivers the
message: its task runs again, follow-ups go out again under the same ids (so a repeat is
recognisable), and the result is stored again, unless a SUCCESS is there already. A consumer that
loses its deliveries between the first step and the last has published and stored all the same;
only an atomic commit can exclude that. How often it happens is told by ``commit.overtaken``.

What this needs of a broker is ``Settling``: four short methods. A server whose own committer works,
of either kind, has them already through ``SettlingByCommit``; so any two servers make a pair:

    committer = OrderedCommit(broker.transport, store.results, SettlingByCommit(broker.committer))

Nothing here has state or locks; a call runs in the thread that owns the deliveries' consumer.

Rejected: results before follow-ups, which would let an atomic broker publish and end in one step,
but leaves a SUCCESS standing when a follow-up turns out to be unroutable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ConnectionLost, PublishError, TimeoutError
from umbel.message import Delivery, Effects, Ending, Message
from umbel.servers.seams import CommitReport, Committer, Refusal, ResultStore, Transport
from umbel.telemetry import emit

#: Seconds in which the broker must confirm the follow-ups of one commit.
PUBLISH_TIMEOUT = 5.0


class Settling(Protocol):
    """How a broker ends deliveries, step by step; results and follow-ups are not its matter.

    Used by the thread that owns the deliveries' consumer. What was lost meanwhile is left alone.
    Every method raises ConnectionLost.
    """

    def holds(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        """Tell of each, in this order, whether we still hold it."""
        ...

    def end(self, deliveries: Sequence[Delivery]) -> int:
        """Acknowledge them; return how many were lost, as far as the broker says."""
        ...

    def requeue(self, deliveries: Sequence[Delivery]) -> int:
        """Put them behind the others of their queues, uncounted; return how many were lost."""
        ...

    def bury(self, deliveries: Sequence[tuple[Delivery, str]]) -> int:
        """Put each among the dead letters for its reason; return how many were lost."""
        ...


class OrderedCommit:
    """A ``Committer`` for a broker and a result store that share no transaction."""

    def __init__(
        self,
        transport: Transport,
        results: ResultStore,
        settling: Settling,
        *,
        clock: Clock = SYSTEM_CLOCK,
        publish_timeout: float = PUBLISH_TIMEOUT,
        joining: Committer | None = None,
    ) -> None:
        self._transport = transport
        self._results = results
        self._settling = settling
        self._clock = clock
        self._publish_timeout = publish_timeout
        #: The store's own committer, where it has joins.
        self._joining = joining

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        """Perform the effects of what is still held, in the order that the essay above gives."""
        fresh, stale = self._fence(effects)
        self._open_joins(fresh)
        error = self._publish([message for each in fresh for message in each.publish])
        refused = _refusals(fresh, error) if error is not None else ()
        if refused:
            unsent = {id(each.effects) for each in refused}
            fresh = [each for each in fresh if id(each) not in unsent]
        joined = self._store(fresh)
        self._end(fresh)
        return CommitReport(tuple(stale), refused, joined)

    def _open_joins(self, effects: Sequence[Effects]) -> None:
        """Open joins before their members are sent."""
        opening = [Effects(None, opens=each.opens) for each in effects if each.opens]
        if opening and self._joining is not None:
            self._joining.commit(opening)

    def _store(self, effects: Sequence[Effects]) -> tuple[str, ...]:
        """Store results and arrivals; return the joins that they complete."""
        joining = [each for each in effects if each.arrivals or each.closes]
        if joining and self._joining is not None:
            stored = [
                Effects(None, results=each.results, arrivals=each.arrivals, closes=each.closes)
                for each in effects
            ]
            return self._joining.commit(stored).joined
        records = [record for each in effects for record in each.results]
        if records:
            self._results.put(records)
        return ()

    def _fence(self, effects: Sequence[Effects]) -> tuple[list[Effects], list[Delivery]]:
        held = [each.delivery for each in effects if each.delivery is not None]
        answers = iter(self._settling.holds(held) if held else ())
        fresh: list[Effects] = []
        stale: list[Delivery] = []
        for each in effects:
            if each.delivery is None or next(answers):
                fresh.append(each)
            else:
                stale.append(each.delivery)
        return fresh, stale

    def _publish(self, messages: Sequence[Message]) -> PublishError | None:
        """Return the error of what the broker refused; it has the other messages."""
        if not messages:
            return None
        try:
            deadline = self._clock.monotonic() + self._publish_timeout
            self._transport.publish(messages, deadline=deadline)
        except PublishError as error:
            return error
        except TimeoutError as error:
            raise ConnectionLost("the broker did not confirm follow-ups in time") from error
        return None

    def _end(self, effects: Sequence[Effects]) -> None:
        lost = 0
        if done := _ending(effects, Ending.ACK):
            lost += self._settling.end([delivery for delivery, _ in done])
        if again := _ending(effects, Ending.REQUEUE):
            lost += self._settling.requeue([delivery for delivery, _ in again])
        if dead := _ending(effects, Ending.DEAD):
            lost += self._settling.bury(dead)
        if lost:
            emit("commit.overtaken", count=lost)


def _refusals(effects: Sequence[Effects], error: PublishError) -> tuple[Refusal, ...]:
    reasons = dict(error.refused)
    refusals: list[Refusal] = []
    for each in effects:
        lost = [(one.id, reasons[one.id]) for one in each.publish if one.id in reasons]
        if lost:
            refusals.append(Refusal(each, type(error)(error.message, lost)))
    return tuple(refusals)


def _ending(effects: Sequence[Effects], ending: Ending) -> list[tuple[Delivery, str]]:
    return [
        (each.delivery, each.reason)
        for each in effects
        if each.ending is ending and each.delivery is not None
    ]


class SettlingByCommit:
    """The steps of ``Settling`` through a committer, whose effects are then nothing but endings."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    def holds(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        """Commit nothing and keep all: what is stale is lost."""
        report = self._committer.commit([Effects(each, Ending.KEEP) for each in deliveries])
        stale = {id(each) for each in report.stale}
        return [id(each) not in stale for each in deliveries]

    def end(self, deliveries: Sequence[Delivery]) -> int:
        return self._settle([Effects(each) for each in deliveries])

    def requeue(self, deliveries: Sequence[Delivery]) -> int:
        return self._settle([Effects(each, Ending.REQUEUE) for each in deliveries])

    def bury(self, deliveries: Sequence[tuple[Delivery, str]]) -> int:
        return self._settle([Effects(each, Ending.DEAD, reason) for each, reason in deliveries])

    def _settle(self, effects: Sequence[Effects]) -> int:
        return len(self._committer.commit(effects).stale)
