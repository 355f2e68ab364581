"""Effects on Redis: all of a batch in one script, each effect whole or not at all, and fenced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from umbel.message import Effects
from umbel.servers.redis import scripts
from umbel.servers.redis.connection import Connections, text
from umbel.servers.redis.joins import joining_arguments
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.messages import Arguments, Packer, result_arguments
from umbel.servers.redis.options import Options
from umbel.servers.seams import CommitReport, Refusal


class RedisCommitter:
    """Performs effects where queues, results and ledger are on this server. Any thread.

    Results and joins may be in another of its databases, under ``store``'s keys.
    """

    def __init__(
        self,
        connections: Connections,
        keys: Keys,
        options: Options,
        *,
        store: Keys | None = None,
        databases: tuple[int, int] | None = None,
    ) -> None:
        store = store or keys
        self._connections = connections
        self._packer = Packer(options, keys)
        self._script_keys = (*self._packer.keys, keys.marks)
        self._start = (*self._packer.start, store.results, store.successes)
        self._joins = (store.groups, store.joins, store.complete_joins, store.waiting_joins)
        self._plain = scripts.commit(joins=False, databases=databases)
        self._joining = scripts.commit(joins=True, databases=databases)

    def commit(self, effects: Sequence[Effects]) -> CommitReport:
        if not effects:
            return CommitReport()
        joining = any(each.arrivals or each.opens or each.closes for each in effects)
        script = self._joining if joining else self._plain
        arguments: Arguments = [*self._start, *(self._joins if joining else ())]
        for each in effects:
            self._add(arguments, each, joining=joining)
        ((stale, refused, joined),) = self._connections.run(script, self._script_keys, [arguments])
        return CommitReport(
            tuple(held for number in stale if (held := effects[number].delivery)),
            tuple(self._refusals(effects, refused)) if refused else (),
            tuple(map(text, joined)),
        )

    def _refusals(
        self, effects: Sequence[Effects], refused: Sequence[tuple[int, int, bytes]]
    ) -> Iterator[Refusal]:
        for number, found in groupby(refused, key=itemgetter(0)):
            messages = effects[number].publish
            lost = [(messages[index], text(reason)) for _, index, reason in found]
            yield Refusal(effects[number], self._packer.refusal(lost))

    def _add(self, arguments: Arguments, effects: Effects, *, joining: bool) -> None:
        delivery = effects.delivery
        if delivery is None:
            arguments += ("", "", effects.ending.value, "", "0", 0)
        else:
            held, tag = delivery.tag
            marked = "1" if delivery.redelivered else "0"
            ending = effects.ending.value
            arguments += (held, tag, ending, effects.reason, marked, delivery.crashes)
        arguments += (len(effects.results), len(effects.publish))
        about, behind = joining_arguments(effects) if joining else ((), ())
        arguments += about
        for record in effects.results:
            arguments += result_arguments(record)
        for message in effects.publish:
            arguments += self._packer.message(message)
        arguments += behind
