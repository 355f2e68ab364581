"""Timetables on Redis. The step that sends what is due is one script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from umbel.servers.redis.connection import Connections, Script, text
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.messages import Arguments, Packer
from umbel.servers.redis.options import Options
from umbel.servers.redis.pieces import CLOCK, ROUTING
from umbel.servers.timetable import Progress, Tick, TickReport, due_text

#: Keep or delete an entry.
#:   KEYS  1 entries   2 progress   3 revision
#:   ARGV  1 name   2 "1" if there must be one   3 which   4 "1" = keep it   5 what
#:   ->    1, or 0: there is another, or none
_PUT: Final = Script.of("""
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if (kept and '1' or '0') ~= ARGV[2] or (kept or '') ~= ARGV[3] then return 0 end
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[5])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
end
redis.call('INCR', KEYS[3])
return 1
""")

#: Tell who has a lease.
#:   KEYS  1 lease
#:   ->    the holder, or nothing
_LEADER: Final = Script.of(
    CLOCK,
    """
local holder, ends = unpack(redis.call('HMGET', KEYS[1], 'holder', 'ends'))
return holder and tonumber(ends) > now_us() and holder
""",
)

#: Deal with ticks.
#:   KEYS  those of routing and storing, then 5 lease   6 progress
#:   ARGV  those of routing and storing, then 6 token, then for each tick
#:         entry, due time before it ("" = none), due time, record, count of messages, the message
#:   ->    nothing, if another token is newer; else the numbers (from 0) of those that were passed
#:         over, and numbers and reasons in turn of those that were refused
_ADVANCE: Final = Script.of(
    CLOCK,
    ROUTING,
    """
if redis.call('HGET', KEYS[5], 'token') ~= ARGV[6] then return false end
local passed, refused = {}, {}

local function is_at(entry, due)
  local kept = redis.call('HGET', KEYS[6], entry)
  return (kept and string.match(kept, '^%S+') or '') == due
end

local i, number = 7, 0
while i <= #ARGV do
  local sends = ARGV[i + 4] == '1'
  local lists, problem
  if sends then lists, problem = destination(i + 5) end
  if not is_at(ARGV[i], ARGV[i + 1]) then
    passed[#passed + 1] = number
  elseif problem then
    refused[#refused + 1] = number
    refused[#refused + 1] = problem
  else
    redis.call('HSET', KEYS[6], ARGV[i], ARGV[i + 2] .. ' ' .. ARGV[i + 3])
    if sends then store(lists, ARGV[i + 8], ARGV[i + 9]) end
  end
  i, number = i + (sends and 10 or 5), number + 1
end
return {passed, refused}
""",
)


class RedisTimetable:
    """See ``servers.timetable.Timetable``. Any thread."""

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._keys = keys
        self._packer = Packer(options, keys)

    def entries(self, table: str) -> Mapping[str, str]:
        found = self._connections.call("HGETALL", self._keys.entries + table)
        return {text(name): text(entry) for name, entry in found.items()}

    def put(self, table: str, name: str, entry: str | None, *, before: str | None) -> bool:
        keys = self._keys
        where = (keys.entries + table, keys.progress + table, keys.entries_revision + table)
        must, kept = ("0", "") if before is None else ("1", before)
        keep, what = ("0", "") if entry is None else ("1", entry)
        (done,) = self._connections.run(_PUT, where, [(name, must, kept, keep, what)])
        return bool(done)

    def revision(self, table: str) -> int:
        return int(self._connections.call("GET", self._keys.entries_revision + table) or 0)

    def progress(self, table: str, names: Sequence[str] | None = None) -> Mapping[str, Progress]:
        key = self._keys.progress + table
        if names is not None:
            kept = self._connections.call("HMGET", key, *names) if names else []
            return {name: _progress(each) for name, each in zip(names, kept, strict=True) if each}
        found = self._connections.call("HGETALL", key)
        return {text(name): _progress(kept) for name, kept in found.items()}

    def leader(self, table: str) -> str | None:
        (holder,) = self._connections.run(_LEADER, (self._keys.lease + table,), [()])
        return text(holder) if holder else None

    def advance(self, table: str, ticks: Sequence[Tick], *, token: int) -> TickReport:
        arguments: Arguments = [*self._packer.start, token]
        for tick in ticks:
            arguments += (tick.entry, due_text(tick.after), due_text(tick.due_at), tick.record)
            arguments += ("0",) if tick.message is None else ("1", *self._message(tick))
        keys = (*self._packer.keys, self._keys.lease + table, self._keys.progress + table)
        (found,) = self._connections.run(_ADVANCE, keys, [arguments])
        if not found:
            return TickReport(leads=False)
        passed, refused = found
        reasons = zip(refused[::2], refused[1::2], strict=True)
        return TickReport(
            passed=tuple(ticks[number] for number in passed),
            refused=tuple((ticks[number], text(reason)) for number, reason in reasons),
        )

    def _message(self, tick: Tick) -> tuple[str, str, str, str, bytes]:
        assert tick.message is not None
        return self._packer.message(tick.message)


def _progress(kept: bytes) -> Progress:
    due, _, record = text(kept).partition(" ")
    return Progress(float(due), record)
