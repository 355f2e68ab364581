"""What Celery's workers hold and never acknowledged goes back, as one of their own would give it.

Celery's worker notes what it took in a hash and when in an index; who finds it there for longer
than the visibility timeout puts it back at the front of its queue. It cannot know whether the other
is dead: that timeout is Celery's promise to its users, and ours is no shorter.

They guard this with a mutex and a transaction for each message. Each of ours moves in one step if
it is still what was read, so we need not take their mutex, and cannot block them by dying with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from umbel.servers.redis.connection import Connections, Script
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.messages import Arguments, Packer
from umbel.servers.redis.options import Options
from umbel.servers.redis.pieces import CLOCK, ROUTING
from umbel.wire.envelope import unacked

#: Seconds between two looks.
INTERVAL = 10.0
#: Messages restored at one look; each is read and written by this process.
MOST_AT_ONCE = 1000

#: Find what was held for too long.
#:   KEYS  1 unacked   2 their index
#:   ARGV  1 seconds   2 how many at most
#:   ->    tags and what is noted of each (nothing, if it is gone) in turn
_OVERDUE: Final = Script.of(
    CLOCK,
    """
local before = string.format('%.6f', now_us() / 1000000 - ARGV[1])
local found = {}
local overdue = redis.call('ZRANGE', KEYS[2], '-inf', before, 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, tag in ipairs(overdue) do
  found[#found + 1] = tag
  found[#found + 1] = redis.call('HGET', KEYS[1], tag)
end
return found
""",
)

#: Put messages back, if their holders still hold them.
#:   KEYS  those of routing and storing, then 5 unacked   6 their index
#:   ARGV  those of routing and storing, then for each message
#:         tag, what was noted, exchange, key, end of the list's key, envelope
#:   ->    how many went back
_RESTORE: Final = Script.of(
    CLOCK,
    ROUTING,
    """
-- Where a message goes, or nil and why it can go nowhere.
local function lists_of(i)
  local exchange, key, suffix = ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if ARGV[i + 5] == '' then return nil, 'not a message' end
  if exchange ~= '' then
    -- Of a fanout exchange nothing is kept for those who did not listen.
    if redis.call('HGET', EXCHANGES, exchange) == 'fanout' then return {} end
    return lists_for(exchange, key, suffix)
  end
  local list = PREFIX .. key .. suffix
  if not is_free_for(list, 'list') then return nil, 'the key ' .. list .. ' holds no queue' end
  return {list}
end

local count = 0
for i = 6, #ARGV, 6 do
  local tag, noted = ARGV[i], redis.call('HGET', KEYS[5], ARGV[i])
  if (noted or '') == ARGV[i + 1] then
    local lists, problem = lists_of(i)
    redis.call('ZREM', KEYS[6], tag)
    redis.call('HDEL', KEYS[5], tag)
    if not noted then
      lists = {}
    elseif problem then
      bury(PREFIX .. ARGV[i + 3], noted, "left by a worker of Celery's: " .. problem, 0)
    else
      count = count + 1
    end
    for _, list in ipairs(lists or {}) do redis.call('RPUSH', list, ARGV[i + 5]) end
  end
end
return count
""",
)


class Unacked:
    """Restores what Celery's workers left. Any thread; a look too many does no harm."""

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._keys = keys
        self._packer = Packer(options, keys)
        self._timeout = options.visibility_timeout
        self._monotonic = options.clock.monotonic
        self._next_look = 0.0

    def restore(self) -> int:
        """Put back what was held for too long, if it is time to look; return how many."""
        if self._monotonic() < self._next_look:
            return 0
        self._next_look = self._monotonic() + INTERVAL
        keys = self._keys
        theirs = (keys.unacked, keys.unacked_since)
        (found,) = self._connections.run(_OVERDUE, theirs, [(self._timeout, MOST_AT_ONCE)])
        if not found:
            return 0
        arguments: Arguments = [*self._packer.start]
        for tag, noted in _pairs(found):
            exchange, key, priority, envelope = unacked(noted or b"")
            suffix = keys.suffix(priority)
            arguments += (tag, noted or b"", exchange, key, suffix, envelope)
        every = (*self._packer.keys, *theirs)
        return int(self._connections.run(_RESTORE, every, [arguments])[0])


def _pairs(found: list[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    return zip(found[::2], found[1::2], strict=True)
