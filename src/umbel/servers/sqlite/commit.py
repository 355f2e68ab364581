"""Effects in one transaction, each only if its delivery is still held by whom it was given to.

Most batches are plain: tasks of one session that ended, and their results. They take the short way:
their holds are deleted without a look at them before, and when that deletes fewer than there are,
some are stale or come twice; then the transaction begins anew and takes the long way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from umbel import telemetry
from umbel.message import Arrival, Delivery, Effects, Ending, Join, Message, ResultRecord
from umbel.servers.seams import CommitReport, Refusal
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.joins import arrive, close, may_close, open_joins
from umbel.servers.sqlite.packing import storable
from umbel.servers.sqlite.storing import Packed, Routed, Store, Writing, store_results


class SqliteCommitter:
    """See ``seams.Committer``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        if not effects:
            return CommitReport()
        plain = _plain(effects)
        # Packed before the transaction, as others wait for its end.
        follow_ups = [] if plain else self._pack(effects)

        def perform(transaction: Transaction) -> CommitReport:
            if plain is not None and self._perform_plain(transaction, *plain):
                report = CommitReport()
            else:
                batch = _Batch(self._store.begin(transaction))
                report = batch.perform(effects, follow_ups or self._pack(effects))
            telemetry.emit("storage.committing", count=len(effects))
            return report

        return self._database.write(perform)

    def _pack(self, effects: Sequence[Effects]) -> list[list[Packed]]:
        return [self._store.pack(each.publish) for each in effects]

    def _perform_plain(
        self,
        transaction: Transaction,
        holder: int,
        ids: Sequence[int],
        results: Sequence[ResultRecord],
    ) -> bool:
        """End what this session holds; if it does not hold all of it, change nothing."""
        as_json = json.dumps(ids)
        if transaction.execute(sql.UNHOLD_OURS, (holder, as_json)).rowcount != len(ids):
            transaction.begin_anew()
            return False
        transaction.execute(sql.DELETE_MESSAGES, (as_json,))
        if results:
            store_results(transaction, results, now=self._database.clock.now())
        return True


def _plain(effects: Sequence[Effects]) -> tuple[int, list[int], list[ResultRecord]] | None:
    """Return the session, its messages and their results, if these effects are nothing but ends."""
    holder: int | None = None
    ids: list[int] = []
    results: list[ResultRecord] = []
    for each in effects:
        if each.delivery is None or each.publish or each.ending is not Ending.ACK:
            return None
        if each.arrivals or each.opens or each.closes:
            return None
        number, session = each.delivery.tag
        if session != holder:
            if holder is not None:
                return None
            holder = session
        ids.append(number)
        results += each.results
    return None if holder is None else (holder, ids, results)


class _Batch:
    """Many effects, gathered so that each kind of change is one statement."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        #: Message -> the number of who holds it, until an ending in this batch.
        self._held: dict[int, int] = {}
        #: Message -> its queue and rank.
        self._places: dict[int, tuple[int, int]] = {}
        # What is to be done:
        self._acked: list[int] = []
        self._buried: list[tuple[int, str, str]] = []
        self._requeued: list[int] = []
        self._results: list[ResultRecord] = []
        self._routed: list[Routed] = []
        self._opens: list[Join] = []
        self._arrivals: list[Arrival] = []
        self._closes: list[str] = []
        #: What is not to be done.
        self._refused: list[Refusal] = []

    def perform(
        self, effects: Sequence[Effects], follow_ups: Sequence[Sequence[Packed]]
    ) -> CommitReport:
        """Do what the effects say whose delivery is still held by whom it was given to."""
        ids = [each.delivery.tag[0] for each in effects if each.delivery is not None]
        rows = self._writing.transaction.execute(sql.HELD, (json.dumps(ids),)).fetchall()
        self._held = {row[0]: row[1] for row in rows}
        self._places = {row[0]: (row[2], row[3]) for row in rows}
        stale: list[Delivery] = []
        for each, packed in zip(effects, follow_ups, strict=True):
            delivery = each.delivery
            if delivery is not None and self._held.get(delivery.tag[0]) != delivery.tag[1]:
                stale.append(delivery)
            elif each.closes and not self._may_close(each.closes):
                continue
            elif not packed or self._route(each, packed):
                self._results += each.results
                self._opens += each.opens
                self._arrivals += each.arrivals
                if each.closes:
                    self._closes.append(each.closes)
                if delivery is not None:
                    self._end(each, delivery)
        self._write()
        return CommitReport(tuple(stale), tuple(self._refused), tuple(self._join()))

    def _may_close(self, join_id: str) -> bool:
        return join_id not in self._closes and may_close(self._writing.transaction, join_id)

    def _join(self) -> list[str]:
        """Write what concerns joins; return those that were completed."""
        transaction, now = self._writing.transaction, self._writing.now
        for join_id in self._closes:
            close(transaction, join_id)
        if self._opens:
            open_joins(transaction, self._opens, now=now)
        return arrive(transaction, self._arrivals, now=now) if self._arrivals else []

    def _route(self, effects: Effects, packed: Sequence[Packed]) -> bool:
        """Route all messages of an effect, or refuse it."""
        routed: list[Routed] = []
        lost: list[tuple[Message, str]] = []
        for each in packed:
            found = self._writing.route(each)
            if isinstance(found, str):
                lost.append((each[0], found))
            else:
                routed.append(found)
        if lost:
            self._refused.append(Refusal(effects, self._writing.refusal(lost)))
            return False
        self._routed += routed
        return True

    def _end(self, effects: Effects, delivery: Delivery) -> None:
        number = delivery.tag[0]
        match effects.ending:
            case Ending.ACK:
                self._acked.append(number)
            case Ending.DEAD:
                self._buried.append((number, delivery.queue, storable(effects.reason)))
            case Ending.REQUEUE:
                self._requeued.append(number)
            case Ending.KEEP:
                return
        del self._held[number]

    def _write(self) -> None:
        writing, execute = self._writing, self._writing.transaction.execute
        for number, queue, reason in self._buried:
            execute(sql.BURY_HELD, (number, queue, reason, writing.now))
        for number in self._requeued:
            self._requeue(number)
        ended = self._acked + [row[0] for row in self._buried]
        if ended or self._requeued:
            execute(sql.UNHOLD, (json.dumps(ended + self._requeued),))
        if ended:
            execute(sql.DELETE_MESSAGES, (json.dumps(ended),))
        if self._results:
            writing.store_results(self._results)
        if self._routed:
            writing.store(self._routed)

    def _requeue(self, number: int) -> None:
        writing, execute = self._writing, self._writing.transaction.execute
        queue, rank = self._places[number]
        if queue not in writing.routes.by_id:
            self._acked.append(number)  # its queue was deleted meanwhile, and its messages with it
            return
        behind = writing.take_id()
        execute(sql.RENUMBER, (number, behind))
        execute(sql.REQUEUE, (number, behind))
        writing.transaction.note(queue)
        writing.limit(queue, [(behind, rank)])
