"""The atomic commit in memory: one lock is the whole transaction."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.exceptions import Unroutable
from umbel.message import Delivery, Effects, Ending
from umbel.servers.memory.queues import unroutable
from umbel.servers.memory.space import Space
from umbel.servers.seams import CommitReport, Refusal


class MemoryCommit:
    """``Committer`` over a space."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        stale: list[Delivery] = []
        refused: list[Refusal] = []
        joined: list[str] = []
        with self._space.lock:
            for each in effects:
                if each.delivery is not None and each.delivery.tag not in self._space.holds:
                    stale.append(each.delivery)
                elif each.closes and not self._space.joins.may_close(each.closes):
                    continue
                elif lost := self._lost(each):
                    refused.append(Refusal(each, Unroutable("follow-ups not sent", lost)))
                else:
                    joined += self._perform(each)
        return CommitReport(tuple(stale), tuple(refused), tuple(joined))

    def _lost(self, effects: Effects) -> list[tuple[str, str]]:
        routes = self._space.routes
        return [(each.id, unroutable(each)) for each in effects.publish if not routes(each)]

    def _perform(self, effects: Effects) -> list[str]:
        """Perform effects; return the joins that they complete."""
        space = self._space
        if effects.closes:
            space.joins.close(effects.closes)
        space.joins.open(effects.opens)
        for message in effects.publish:
            space.store(message, space.routes(message))
        if effects.results:
            space.shelf.put(effects.results)
        if effects.delivery is not None and effects.ending is not Ending.KEEP:
            self._end(effects.delivery, effects.ending, effects.reason)
        return space.joins.arrive(effects.arrivals)

    def _end(self, delivery: Delivery, ending: Ending, reason: str) -> None:
        entry = self._space.release(delivery)
        if entry is None or ending is Ending.ACK:
            return
        if ending is Ending.DEAD:
            self._space.bury(entry, reason)
        else:
            entry.position = self._space.next_number()
            self._space.give_back(entry)
