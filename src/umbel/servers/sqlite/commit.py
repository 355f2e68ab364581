"""Effects in one transaction, each only if its delivery is still held by whom it was given to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from umbel.exceptions import EncodeError
from umbel.message import Delivery, Effects, Ending, ResultRecord
from umbel.servers.seams import CommitReport
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.packing import pack
from umbel.servers.sqlite.storing import Packed, Store, Writing


class SqliteCommitter:
    """See ``seams.Committer``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        if not effects:
            return CommitReport()
        with self._database.write() as transaction:
            return _Batch(self._store.begin(transaction), effects).perform()


class _Batch:
    """Many effects, gathered so that each kind of change is one statement."""

    def __init__(self, writing: Writing, effects: Sequence[Effects]) -> None:
        self._writing = writing
        self._effects = effects
        self._acked: list[int] = []
        self._packed: list[Packed] = []
        self._results: list[ResultRecord] = []
        self._buried: list[tuple[int, str, str]] = []
        self._requeued: list[int] = []
        self._stale: list[Delivery] = []
        #: Message -> the number of who holds it, until an ending in this batch.
        self._held: dict[int, int] = {}
        #: Message -> its queue and rank.
        self._places: dict[int, tuple[int, int]] = {}

    def perform(self) -> CommitReport:
        ids = [each.delivery.tag[0] for each in self._effects if each.delivery is not None]
        rows = self._writing.transaction.execute(sql.HELD, (json.dumps(ids),)).fetchall()
        self._held = {row[0]: row[1] for row in rows}
        self._places = {row[0]: (row[2], row[3]) for row in rows}
        for each in self._effects:
            delivery = each.delivery
            if delivery is None:
                self._gather_free(each)
            elif self._held.get(delivery.tag[0]) == delivery.tag[1]:
                self._gather(each, delivery)
            else:
                self._stale.append(delivery)
        self._write()
        return CommitReport(tuple(self._stale))

    def _gather(self, effects: Effects, delivery: Delivery) -> None:
        ending, reason = effects.ending, effects.reason
        packed, lost = self._resolve(effects)
        if lost:
            ending, reason = Ending.DEAD, lost
        else:
            self._packed += packed
            self._results += effects.results
        number = delivery.tag[0]
        if ending is Ending.ACK:
            self._acked.append(number)
        elif ending is Ending.DEAD:
            self._buried.append((number, delivery.queue, reason))
        elif ending is Ending.REQUEUE:
            self._requeued.append(number)
        if ending is not Ending.KEEP:
            del self._held[number]

    def _resolve(self, effects: Effects) -> tuple[list[Packed], str]:
        packed: list[Packed] = []
        for message in effects.publish:
            found = self._writing.resolve(message)
            if isinstance(found, str):
                return [], f"its follow-up {message.id} cannot be sent: {found}"
            packed.append(found)
        return packed, ""

    def _gather_free(self, effects: Effects) -> None:
        """Take effects without a delivery; a message that cannot be sent becomes a dead letter."""
        self._results += effects.results
        for message in effects.publish:
            found = self._writing.resolve(message)
            if not isinstance(found, str):
                self._packed.append(found)
                continue
            try:
                data = pack(message)
            except EncodeError:
                data = pack(replace(message, headers={}, properties=None))
            row = (data, message.body, message.routing_key, found, self._writing.now)
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
        if self._packed:
            writing.store(self._packed)

    def _requeue(self, number: int) -> None:
        writing, execute = self._writing, self._writing.transaction.execute
        queue, rank = self._places[number]
        if queue not in writing.routes.by_id:
            self._acked.append(number)  # its queue was deleted meanwhile, and its messages with it
            return
        behind = writing.take_id()
        execute(sql.RENUMBER, (number, behind))
        execute(sql.REQUEUE, (number, behind))
        writing.arrived(queue, rank, (behind,))
