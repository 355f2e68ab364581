"""Where a message is on Redis: lists, delayed messages and holds are looked through for its id.

There is no index of ids, and none is kept for this: it would cost every message. Each request looks
at a bounded number of messages, so that no other client waits long. The lists change meanwhile:
they are read from the head, where messages are pushed, so that what moves is seen twice, not never.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from umbel.clock import Clock
from umbel.servers.redis.connection import Connections, Script, raw, text
from umbel.servers.redis.keys import Keys
from umbel.servers.seams import Place
from umbel.wire.envelope import unpack

#: Messages that one request looks at.
CHUNK = 500

#: Find messages in a part of a list.
#:   KEYS  1 list
#:   ARGV  1 text in the envelope   2 index of the first, from the head   3 how many
#:   ->    length of the list, then the index and the envelope of each that has the text, in turn
_IN_LIST: Final = Script.of("""
local found = {redis.call('LLEN', KEYS[1])}
local first = tonumber(ARGV[2])
for i, envelope in ipairs(redis.call('LRANGE', KEYS[1], first, first + ARGV[3] - 1)) do
  if string.find(envelope, ARGV[1], 1, true) then
    found[#found + 1] = first + i - 1
    found[#found + 1] = envelope
  end
end
return found
""")

#: Find messages among those that a consumer holds.
#:   KEYS  1 held
#:   ARGV  1 text in the envelope
#:   ->    tags and envelopes in turn
_IN_HOLD: Final = Script.of("""
local found = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if string.find(fields[i + 1], ARGV[1], 1, true) then
    found[#found + 1] = fields[i]
    found[#found + 1] = fields[i + 1]
  end
end
return found
""")


class Finder:
    """Looks for one message. Owned by the thread that made it."""

    def __init__(self, connections: Connections, keys: Keys, clock: Clock, task_id: str) -> None:
        self._connections = connections
        self._keys = keys
        self._clock = clock
        self._id = task_id
        #: As it stands in an envelope.
        self._text = json.dumps(task_id)[1:-1]

    def find(self, queues: Sequence[str]) -> list[Place]:
        """Return all places of the message, those where it is held first."""
        found = list(self._held())
        for queue in queues:
            before = 0
            for key in self._keys.lists(queue):
                found += self._delayed(queue, key, before)
                length, places = self._ready(queue, key, before)
                found += places
                before += length
        return found

    def _ready(self, queue: str, key: str, before: int) -> tuple[int, list[Place]]:
        """Return the length of a list, and the message's places in it."""
        places: dict[bytes, Place] = {}
        first = length = 0
        while first <= length:
            arguments = (self._text, first, CHUNK)
            ((length, *found),) = self._connections.run(_IN_LIST, [key], [arguments])
            for index, envelope in _pairs(found):
                message = unpack(envelope)[0]
                if message.id == self._id:
                    ahead = before + length - 1 - index
                    places[envelope] = Place("ready", queue, message, ahead=ahead)
            first += CHUNK
        return length, list(places.values())

    def _delayed(self, queue: str, key: str, before: int) -> Iterator[Place]:
        delayed = self._keys.delayed + key
        pattern = raw("*" + re.sub(r"([*?\[\]\\])", r"\\\1", self._text) + "*")
        cursor: Any = 0
        seen = set[bytes]()
        while True:
            cursor, found = self._connections.call(
                "ZSCAN", delayed, cursor, "MATCH", pattern, "COUNT", CHUNK
            )
            for envelope, due in _pairs(found):
                message = unpack(envelope)[0]
                if message.id == self._id and envelope not in seen:
                    seen.add(envelope)
                    left = self._left(float(due))
                    if left > 0:
                        yield Place("delayed", queue, message, due_at=self._clock.now() + left)
                    else:  # it will be moved to the front of its list
                        earlier = self._connections.call("ZCOUNT", delayed, "-inf", f"({text(due)}")
                        yield Place("ready", queue, message, ahead=before + earlier)
            if int(cursor) == 0:
                return

    def _left(self, due: float) -> float:
        """Return the seconds until then, by the server's clock."""
        seconds, microseconds = self._connections.call("TIME")
        return due / 1_000_000 - int(seconds) - int(microseconds) / 1_000_000

    def _held(self) -> Iterator[Place]:
        for consumer in self._connections.call("ZRANGE", self._keys.leases, 0, -1):
            key = self._keys.held + text(consumer)
            (found,) = self._connections.run(_IN_HOLD, [key], [(self._text,)])
            for tag, envelope in _pairs(found):
                message = unpack(envelope)[0]
                if message.id == self._id:
                    queue = self._keys.queue(text(tag.partition(b":")[2]))
                    yield Place("held", queue, message, consumer_id=text(consumer))


def _pairs(found: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(found[::2], found[1::2], strict=True)
