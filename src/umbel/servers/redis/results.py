"""Results on Redis, under Celery's keys and channels.

A ``RedisWatch`` follows results over one connection in protocol 3, where a connection that has
subscriptions may give other commands too. ``add`` sends SUBSCRIBE and MGET together: the server is
told to push before it is asked what is there, so nothing falls between, and whoever calls ``add``
need not wait for the thread that reads. Writing is under a lock, which also keeps the order of the
questions; reading is the owner's alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import hiredis

from umbel.exceptions import ConnectionLost, TransportError
from umbel.message import ResultRecord
from umbel.servers.redis import scripts
from umbel.servers.redis.connection import Connections, Link, ReplyError, Waker, pack, text
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.messages import Arguments, result_arguments
from umbel.servers.redis.options import Options


class RedisResults:
    """Results by task id. Any thread."""

    reply_to = ""
    caveat = ""
    shared = True

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._keys = keys
        self._options = options

    def put(self, records: Sequence[ResultRecord]) -> None:
        if not records:
            return
        arguments: Arguments = [self._keys.results, self._keys.successes]
        for record in records:
            arguments += result_arguments(record)
        self._connections.run(scripts.PUT, (), [arguments])

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        if not task_ids:
            return {}
        metas = self._connections.call("MGET", *(self._keys.results + each for each in task_ids))
        found = zip(task_ids, metas, strict=True)
        return {task_id: meta for task_id, meta in found if meta is not None}

    def watch(self) -> RedisWatch:
        return RedisWatch(self._connections, self._keys, self._options)

    def forget(self, task_ids: Sequence[str]) -> None:
        if task_ids:
            beginnings = (self._keys.results, self._keys.successes)
            self._connections.call("DEL", *(b + each for each in task_ids for b in beginnings))

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:
        expiry = () if expires_in is None else ("PX", max(1, int(expires_in * 1000)))
        self._connections.call("SET", self._keys.groups + group_id, data, *expiry)

    def saved_group(self, group_id: str) -> bytes | None:
        data: bytes | None = self._connections.call("GET", self._keys.groups + group_id)
        return data

    def forget_group(self, group_id: str) -> None:
        self._connections.call("DEL", self._keys.groups + group_id)

    def close(self) -> None:
        self._connections.close()


class RedisWatch:
    """A session that follows results. One thread receives; the other methods are for any."""

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._prefix = keys.results
        self._monotonic = options.clock.monotonic
        self._waker = Waker()
        self._closed = False
        #: Guards what follows, and writing to the link.
        self._lock = threading.Lock()
        self._followed: dict[str, None] = {}
        #: The ids of each MGET whose reply has not come, oldest first.
        self._asked: deque[list[str]] = deque()
        self._link: Link | None = None

    def add(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            new = [each for each in dict.fromkeys(task_ids) if each not in self._followed]
            self._followed.update(dict.fromkeys(new))
            if self._link is not None:
                self._follow(self._link, new)
                return
        with suppress(TransportError):  # the next receive tries again, and raises
            self._connected()

    def discard(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            known = [each for each in dict.fromkeys(task_ids) if each in self._followed]
            for each in known:
                del self._followed[each]
            if known and self._link is not None:
                self._send(self._link, pack("UNSUBSCRIBE", *self._channels(known)))

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        deadline = self._monotonic() + timeout
        while True:
            link = self._connected()
            try:
                news = [each for item in link.received() for each in self._read(item)]
                left = deadline - self._monotonic()
                if news or left <= 0 or link.wait(left, self._waker):
                    return news
            except BaseException:  # also what a signal raises in the middle of a reply
                self._drop_link()
                raise

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        self._closed = True
        self._drop_link()
        self._waker.close()

    def _connected(self) -> Link:
        """Return the link; a new one asks again for all that is followed."""
        with self._lock:
            if self._closed:
                raise ConnectionLost("this watch is closed")
            if self._link is None:
                link = self._connections.open()
                self._asked.clear()
                self._link = link
                self._follow(link, list(self._followed))
            return self._link

    def _drop_link(self) -> None:
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None

    def _follow(self, link: Link, task_ids: list[str]) -> None:
        if not task_ids:
            return
        channels = self._channels(task_ids)
        self._asked.append(task_ids)
        self._send(link, pack("SUBSCRIBE", *channels) + pack("MGET", *channels))

    def _send(self, link: Link, data: bytes) -> None:
        try:
            link.send(data)
        except TransportError:
            # The reader finds the link closed, raises, and its next receive asks for all again.
            self._waker.wake()

    def _channels(self, task_ids: Iterable[str]) -> list[str]:
        return [self._prefix + each for each in task_ids]

    def _read(self, item: Any) -> list[tuple[str, bytes]]:
        """Return the metas in what the server sent: a notice, or the answer to an MGET."""
        if isinstance(item, hiredis.PushNotification):
            if item[0] != b"message":
                return []
            pairs = [(text(item[1])[len(self._prefix) :], item[2])]
        elif isinstance(item, ReplyError):
            raise TransportError(f"Redis refused: {item}")
        else:
            pairs = list(zip(self._asked.popleft(), item, strict=True))
        return [(task_id, meta) for task_id, meta in pairs if meta and task_id in self._followed]
