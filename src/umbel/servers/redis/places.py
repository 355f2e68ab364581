"""Where the server is: one address, several of which one is the master, or sentinels who know.

After a failover the old master may still answer, as a replica or cut off from the others. So with
several addresses, and behind sentinels, a connection counts only if its server says that it is no
replica; which one did last is asked first next time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redis.sentinel import Sentinel

from umbel.servers.redis.options import Options


class Places:
    """Names the addresses to try. Any thread: the worst of a race is one attempt too many."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._places = (options.connection, *options.others)
        self._best = 0

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield arguments for redis-py's connection, each with its number; the best one first."""
        if self._options.sentinels is not None:
            yield 0, {**self._options.connection, **self._master()}
            return
        count, best = len(self._places), self._best
        for number in range(best, best + count):
            yield number % count, self._places[number % count]

    def remember(self, number: int) -> None:
        """Begin with this one from now on."""
        self._best = number

    def _master(self) -> dict[str, Any]:
        known = self._options.sentinels
        assert known is not None
        timeout = self._options.connection["socket_connect_timeout"]
        make: Any = Sentinel  # its types are incomplete
        sentinel = make(
            known.addresses,
            known.min_other_sentinels,
            {"socket_timeout": timeout, "socket_connect_timeout": timeout, **known.connection},
        )
        try:
            host, port = sentinel.discover_master(known.master)
        finally:
            for each in sentinel.sentinels:
                each.close()
        return {"host": host, "port": port}
