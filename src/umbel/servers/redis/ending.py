"""The end of consumers, and of the queues that were for them alone."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.servers.redis import scripts
from umbel.servers.redis.connection import Connections, Script, Word, text
from umbel.servers.redis.keys import Keys


def end(connections: Connections, keys: Keys, script: Script, arguments: Sequence[Word]) -> int:
    """Run a script that ends consumers; return how many messages went back."""
    every = (*keys.consumers, *arguments)
    ((count, left),) = connections.run(script, (keys.leases, keys.marks), [every])
    for queue in map(text, left):
        delete(connections, keys, queue)
    return int(count)


def delete(connections: Connections, keys: Keys, queue: str, *, now: bool = False) -> None:
    """Delete a queue that has no consumer, if it shall end with its last one, or ``now``."""
    lists = keys.lists(queue)
    places = (queue, keys.bindings, keys.permanent_bindings, keys.separator, "1" if now else "")
    arguments = (*places, *lists, *(keys.delayed + each for each in lists))
    where = (keys.queues, keys.exchanges, keys.served + queue)
    connections.run(scripts.DELETE_QUEUE, where, [arguments])
