"""Effects in one transaction, each only if its delivery is still held by whom it was given to.

Most batches are plain: tasks of one session that ended, and their results. They take the short way:
their holds are deleted without a look at them before, and when that deletes fewer than there are,
some are stale or come twice; then the transaction begins anew and takes the long way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from umbel import telemetry
from umbel.message import Delivery, Effects, Ending, ResultRecord
from umbel.servers.seams import CommitReport
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.connection import Transaction
from umbel.servers.sqlite.packing import pack, storable
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
            if delivery is None:
                self._gather_free(each, packed)
            elif self._held.get(delivery.tag[0]) == delivery.tag[1]:
                self._gather(each, delivery, packed)
            else:
                stale.append(delivery)
        self._write()
        return CommitReport(tuple(stale))

    def _gather(self, effects: Effects, delivery: Delivery, packed: Sequence[Packed]) -> None:
        ending, reason = effects.ending, effects.reason
        routed, lost = self._route(packed) if packed else ((), "")
        if lost:
            ending, reason = Ending.DEAD, lost
        else:
            self._routed += routed
            self._results += effects.results
        number = delivery.tag[0]
        if ending is Ending.ACK:
            self._acked.append(number)
        elif ending is Ending.DEAD:
            self._buried.append((number, delivery.queue, storable(reason)))
        elif ending is Ending.REQUEUE:
            self._requeued.append(number)
        if ending is not Ending.KEEP:
            del self._held[number]

    def _route(self, packed: Sequence[Packed]) -> tuple[Sequence[Routed], str]:
        routed: list[Routed] = []
        for each in packed:
            found = self._writing.route(each)
            if isinstance(found, str):
                return (), f"its follow-up {each[0].id} cannot be sent: {found}"
            routed.append(found)
        return routed, ""

    def _gather_free(self, effects: Effects, packed: Sequence[Packed]) -> None:
        """Take effects without a delivery; a message that cannot be sent becomes a dead letter."""
        self._results += effects.results
        for each in packed:
            found = self._writing.route(each)
            if isinstance(found, str):
                self._bury_unsent(each, found)
            else:
                self._routed.append(found)

    def _bury_unsent(self, packed: Packed, reason: str) -> None:
        message, data, _ = packed
        data = data or pack(replace(message, headers={}, properties=None))
        queue, reason = storable(message.routing_key), storable(reason)
        row = (data, message.body, queue, reason, self._writing.now)
        self._writing.transaction.execute(sql.BURY_NEW, row)

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
