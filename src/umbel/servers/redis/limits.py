"""What queues limit: how many messages may wait, for how long, and how long a queue stays unused.

Celery's programs push to the same lists and know of no limits. So there are two times to keep them:
when one of ours stores a message (``max_length``, in the scripts' ROUTING) or receives one
(``message_ttl``), and now and then for all queues that have limits, by any node (``Limits.keep``).

How long a message has waited is told by its sender's clock: from when it was sent or, if it had a
delay, from when it was due. Those of Celery's clients do not say, so they may wait for as long as
it takes. A list is in order but for what was given back, so its old ones are looked for at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from umbel.message import Delivery, Message
from umbel.servers.redis.connection import Connections, Link, Script, text
from umbel.servers.redis.ending import delete
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.messages import Packer
from umbel.servers.redis.options import Options
from umbel.servers.redis.pieces import CLOCK, ROUTING
from umbel.wire.envelope import unpack

#: Seconds between two looks.
INTERVAL = 10.0
#: Messages looked at, at once, at the end of a list.
SLICE = 100
TOO_OLD = "it waited too long (message_ttl)"

#: End what is too much, and tell of queues that are unused for too long or whose messages grow old.
#:   KEYS  those of routing and storing, then 5 unused
#:   ARGV  those of routing and storing, then 6 beginning of served
#:   ->    names of the former; names and seconds of the latter in turn
_TIDY: Final = Script.of(
    CLOCK,
    ROUTING,
    """
local UNUSED, now = KEYS[5], now_us()

local function is_unused(queue, seconds)
  if redis.call('EXISTS', ARGV[6] .. queue) == 1 then
    redis.call('ZREM', UNUSED, queue)
    return false
  end
  redis.call('ZADD', UNUSED, 'NX', now, queue)
  return now - redis.call('ZSCORE', UNUSED, queue) >= seconds * 1000000
end

local unused, aging = {}, {}
local all = redis.call('HGETALL', QUEUES)
for i = 1, #all, 2 do
  local queue = all[i]
  local about = all[i + 1] == '{}' and {} or cjson.decode(all[i + 1])
  learn(queue, all[i + 1])
  trim(queue)
  if about.expires and is_unused(queue, about.expires) then
    redis.call('ZREM', UNUSED, queue)
    unused[#unused + 1] = queue
  elseif about.message_ttl then
    aging[#aging + 1] = queue
    aging[#aging + 1] = tostring(about.message_ttl)
  end
end
return {unused, aging}
""",
)

#: Move messages from the end of a list to the dead letters, as long as they are what was read.
#:   KEYS  1 list   2 dead
#:   ARGV  1 reason, then envelopes
#:   ->    how many were moved
_BURY_WAITING: Final = Script.of(
    """
for i = 2, #ARGV do
  if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[i] then return i - 2 end
  redis.call('RPOP', KEYS[1])
  redis.call('XADD', KEYS[2], '*', 'envelope', ARGV[i], 'list', KEYS[1], 'reason', ARGV[1],
    'crashes', 0)
end
return #ARGV - 1
"""
)

#: Move messages that are held to the dead letters.
#:   KEYS  1 held   2 dead
#:   ARGV  1 reason, then tags
_BURY_HELD: Final = Script.of(
    """
for i = 2, #ARGV do
  local envelope = redis.call('HGET', KEYS[1], ARGV[i])
  if envelope then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('XADD', KEYS[2], '*', 'envelope', envelope, 'list',
      string.match(ARGV[i], '^%d+:(.*)$'), 'reason', ARGV[1], 'crashes', 0)
  end
end
"""
)


class Limits:
    """Keeps queues to their limits. Any thread; a look too many does no harm."""

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._keys = keys
        self._packer = Packer(options, keys)
        self._clock = options.clock
        self._next_look = 0.0

    def keep(self) -> None:
        """End what is too much, too old or unused for too long, if it is time to look."""
        if self._clock.monotonic() < self._next_look:
            return
        self._next_look = self._clock.monotonic() + INTERVAL
        every = (*self._packer.keys, self._keys.unused)
        arguments = (*self._packer.start, self._keys.served)
        ((unused, aging),) = self._connections.run(_TIDY, every, [arguments])
        for queue in map(text, unused):
            delete(self._connections, self._keys, queue, now=True)
        for queue, ttl in zip(map(text, aging[::2]), map(float, aging[1::2]), strict=True):
            for key in self._keys.lists(queue):
                while self._bury(key, ttl) == SLICE:
                    pass

    def _bury(self, key: str, ttl: float) -> int:
        """End what is too old at the end of a list; return how many."""
        envelopes: list[bytes] = self._connections.call("LRANGE", key, -SLICE, -1)[::-1]
        now = self._clock.now()
        old = list(takewhile(lambda each: _is_old(unpack(each)[0], ttl, now), envelopes))
        if not old:
            return 0
        both = (key, self._keys.dead)
        return int(self._connections.run(_BURY_WAITING, both, [(TOO_OLD, *old)])[0])


def ttls(link: Link, keys: Keys, queues: Sequence[str]) -> dict[str, float]:
    """Return how long messages may wait in those of the queues that have a limit."""
    found = link.call("HMGET", keys.queues, *queues) if queues else []
    return dict(_limits(queues, found))


def bury_old(
    link: Link, keys: Keys, deliveries: list[Delivery], limits: Mapping[str, float], now: float
) -> list[Delivery]:
    """End those that waited for too long; return the others."""
    old = [
        each
        for each in deliveries
        if each.queue in limits and _is_old(each.message, limits[each.queue], now)
    ]
    if not old:
        return deliveries
    tags = [each.tag[1] for each in old]
    link.run(_BURY_HELD, (old[0].tag[0], keys.dead), [(TOO_OLD, *tags)])
    return [each for each in deliveries if each.tag[1] not in tags]


def _limits(queues: Sequence[str], found: Sequence[bytes | None]) -> Iterator[tuple[str, float]]:
    for queue, properties in zip(queues, found, strict=True):
        about: Mapping[str, Any] = json.loads(properties or b"{}")
        if about.get("message_ttl") is not None:
            yield queue, float(about["message_ttl"])


def _is_old(message: Message, ttl: float, now: float) -> bool:
    since = max(message.sent_at, message.not_before)
    return since > 0 and since + ttl <= now
