"""Joins on Redis, in Celery's keys (see ``joining``). Any thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from umbel.message import Arrival, Effects, Join
from umbel.servers.redis.connection import Connections, Script, text
from umbel.servers.redis.joining import TABLE
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.messages import Arguments
from umbel.servers.redis.pieces import CLOCK
from umbel.servers.seams import Joined

#: Joins looked at in one sweep whose members might all be there.
LOOKS = 100

_START: Final = """
local COMPLETE, WAITING, GROUPS, JOINS = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
"""

#: Say how many members joins have.
#:   KEYS  1 complete joins   2 waiting joins
#:   ARGV  1 beginning of groups   2 beginning of joins, then for each id, size, context, ms to keep
_OPEN: Final = Script.of(
    CLOCK,
    _START,
    TABLE,
    """
for i = 3, #ARGV, 4 do open_join(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
""",
)

#: Add members.
#:   KEYS  as above
#:   ARGV  1 beginning of groups   2 beginning of joins   3 id   4 members
_ENLARGE: Final = Script.of(
    _START,
    """
if redis.call('EXISTS', GROUPS .. ARGV[3] .. '.c') == 1 then return end
redis.call('INCRBY', GROUPS .. ARGV[3] .. '.t', ARGV[4])
local left = redis.call('PTTL', GROUPS .. ARGV[3] .. '.s')
if left > 0 then redis.call('PEXPIRE', GROUPS .. ARGV[3] .. '.t', left) end
""",
)

#: Read complete joins.
#:   KEYS  as above
#:   ARGV  1 beginning of groups   2 beginning of joins, then ids
#:   ->    for each that is complete: id, context, parts, what was saved of the group
_JOINED: Final = Script.of(
    _START,
    """
local found = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local context = redis.call('ZSCORE', COMPLETE, id) and redis.call('GET', JOINS .. id)
  if context then
    local parts = redis.call('ZRANGE', GROUPS .. id .. '.j', 0, -1)
    found[#found + 1] = {id, context, parts, redis.call('GET', GROUPS .. id)}
  end
end
return found
""",
)

#: Find joins that nobody closed. One that has expired is forgotten.
#:   KEYS  as above
#:   ARGV  1 beginning of groups   2 beginning of joins   3 microseconds since   4 limit   5 looks
#:   ->    ids
_UNCLOSED: Final = Script.of(
    CLOCK,
    _START,
    TABLE,
    """
local before = now_us() - ARGV[3]

-- One that is full, and claimed by nobody, for so long: a Celery worker died with its claim.
local function take_over(id)
  if not is_full(id) or redis.call('EXISTS', GROUPS .. id .. '.c') == 1 then return end
  local since = redis.call('GET', JOINS .. id .. ':full')
  local left = redis.call('PTTL', JOINS .. id)
  local ttl = left > 0 and left or ''
  if not since then
    set(JOINS .. id .. ':full', string.format('%.0f', now_us()), ttl)
  elseif tonumber(since) <= before and complete(id, '', ttl) then
    redis.call('ZADD', COMPLETE, before, id)
  end
end

for _, id in ipairs(redis.call('ZRANGE', WAITING, 0, ARGV[5] - 1)) do
  local is_over = redis.call('GET', GROUPS .. id .. '.c') == 'done'
  if is_over or redis.call('EXISTS', JOINS .. id) == 0 then
    redis.call('ZREM', WAITING, id)
    redis.call('DEL', JOINS .. id, JOINS .. id .. ':full')
  else
    redis.call('ZADD', WAITING, 'XX', now_us(), id)
    take_over(id)
  end
end

local found = {}
local old = redis.call('ZRANGE', COMPLETE, '-inf', before, 'BYSCORE', 'LIMIT', 0, ARGV[4])
for _, id in ipairs(old) do
  if redis.call('EXISTS', JOINS .. id) == 1 then
    found[#found + 1] = id
  else
    redis.call('ZREM', COMPLETE, id)
  end
end
return found
""",
)


class RedisJoins:
    """See ``seams.Joins``."""

    def __init__(self, connections: Connections, keys: Keys) -> None:
        self._connections = connections
        self._keys = (keys.complete_joins, keys.waiting_joins)
        self._start = (keys.groups, keys.joins)

    def open(self, joins: Sequence[Join]) -> None:
        if joins:
            self._run(_OPEN, *(word for join in joins for word in _open_arguments(join)))

    def enlarge(self, join_id: str, members: int) -> None:
        self._run(_ENLARGE, join_id, members)

    def joined(self, join_ids: Sequence[str]) -> dict[str, Joined]:
        found = self._run(_JOINED, *join_ids)
        return {
            text(join_id): Joined(context, parts, shape) for join_id, context, parts, shape in found
        }

    def unclosed(self, *, older_than: float, limit: int = 100) -> Sequence[str]:
        found = self._run(_UNCLOSED, int(older_than * 1_000_000), limit, LOOKS)
        return [text(join_id) for join_id in found]

    def _run(self, script: Script, *arguments: str | float | bytes) -> Any:
        return self._connections.run(script, self._keys, [(*self._start, *arguments)])[0]


def joining_arguments(effects: Effects) -> tuple[Arguments, Arguments]:
    """Return what stands behind an effect's counts, and what behind its messages."""
    behind: Arguments = []
    for join in effects.opens:
        behind += _open_arguments(join)
    for arrival in effects.arrivals:
        behind += _arrival_arguments(arrival)
    return [effects.closes, len(effects.opens), len(effects.arrivals)], behind


def _open_arguments(join: Join) -> Arguments:
    return [join.id, join.size, join.context, _milliseconds(join.expires_in)]


def _arrival_arguments(each: Arrival) -> Arguments:
    index = "+inf" if each.index is None else each.index
    kept = _milliseconds(each.expires_in)
    return [each.join, each.member, index, each.part, each.context, kept]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else str(max(1, int(seconds * 1000)))
