"""The small durable state on Redis: dead letters, revocations, node records, leases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from umbel.clock import Clock
from umbel.ids import new_id
from umbel.servers.redis.connection import Connections, Link, Script, text
from umbel.servers.redis.keys import Keys
from umbel.servers.seams import Charge, DeadConsumer, DeadLetter, Revocation
from umbel.wire.envelope import pack, unpack

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

#: Send dead letters to the heads of their lists.
#:   KEYS  1 dead
#:   ARGV  ids
#:   ->    how many
_REQUEUE: Final = Script.of("""
local count = 0
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local fields = {}
    for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
    redis.call('LPUSH', fields.list, fields.envelope)
    redis.call('XDEL', KEYS[1], id)
    count = count + 1
  end
end
return count
""")

#: Count the death of a consumer, once, against what it was running.
#:   KEYS  1 charged
#:   ARGV  1 beginning of charges   2 milliseconds to remember
#:         3 crashes   4 suspect   5 verdict, then message ids
_CHARGE: Final = Script.of("""
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return end
for i = 6, #ARGV do
  local charge = ARGV[1] .. ARGV[i]
  redis.call('HINCRBY', charge, 'crashes', ARGV[3])
  redis.call('HSET', charge, 'suspect', ARGV[4])
  if ARGV[5] ~= '' then redis.call('HSET', charge, 'verdict', ARGV[5]) end
  redis.call('PEXPIRE', charge, ARGV[2])
end
""")

#: Tell what stands against messages.
#:   ARGV  1 beginning of charges, then message ids
#:   ->    id, crashes, suspect, verdict of each that has a charge
_CHARGES: Final = Script.of("""
local found = {}
for i = 2, #ARGV do
  local crashes, suspect, verdict =
    unpack(redis.call('HMGET', ARGV[1] .. ARGV[i], 'crashes', 'suspect', 'verdict'))
  if crashes then
    for _, each in ipairs({ARGV[i], crashes, suspect, verdict or ''}) do
      found[#found + 1] = each
    end
  end
end
return found
""")

#: Remember revocations, and forget those that ended.
#:   KEYS  1 revoked   2 revocations   3 revision
#:   ARGV  1 microseconds to remember   2 what is said of them, then task ids
_REVOKE: Final = Script.of(
    _NOW,
    """
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE')) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[2])
end
redis.call('INCR', KEYS[3])
""",
)

#: Tell which are revoked.
#:   KEYS  1 revoked   2 revocations
#:   ARGV  task ids
#:   ->    ids and what is said of them in turn
_REVOKED: Final = Script.of(
    _NOW,
    """
local found = {}
for _, id in ipairs(ARGV) do
  local ends = redis.call('ZSCORE', KEYS[1], id)
  if ends and tonumber(ends) > now then
    found[#found + 1] = id
    found[#found + 1] = redis.call('HGET', KEYS[2], id) or '{}'
  end
end
return found
""",
)

#: Tell of all that are revoked for how long.
#:   KEYS  1 revoked
#:   ->    ids and the microseconds left in turn
_ALL_REVOKED: Final = Script.of(
    _NOW,
    """
local left = {}
local all = redis.call('ZRANGE', KEYS[1], now, '+inf', 'BYSCORE', 'WITHSCORES')
for i = 1, #all, 2 do
  left[i] = all[i]
  left[i + 1] = all[i + 1] - now
end
return left
""",
)

#: Keep a node's record, and drop those that ended.
#:   KEYS  1 nodes   2 node ends
#:   ARGV  1 node   2 record   3 microseconds to keep it
_ANNOUNCE: Final = Script.of(
    _NOW,
    """
for _, node in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE')) do
  redis.call('HDEL', KEYS[1], node)
  redis.call('ZREM', KEYS[2], node)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
""",
)

#: Return the records of nodes that live.
#:   KEYS  1 nodes   2 node ends
#:   ->    nodes and records in turn
_NODES: Final = Script.of(
    _NOW,
    """
local found = {}
local alive = '(' .. string.format('%.0f', now)
for _, node in ipairs(redis.call('ZRANGE', KEYS[2], alive, '+inf', 'BYSCORE')) do
  found[#found + 1] = node
  found[#found + 1] = redis.call('HGET', KEYS[1], node)
end
return found
""",
)

#: Take or renew a lease. Its key stays for ever, so that the token never falls back.
#:   KEYS  1 lease
#:   ARGV  1 holder   2 microseconds
#:   ->    the token, or nothing
_ACQUIRE: Final = Script.of(
    _NOW,
    """
local holder, ends = unpack(redis.call('HMGET', KEYS[1], 'holder', 'ends'))
local held = ends and tonumber(ends) > now
if held and holder ~= ARGV[1] then return false end
if not held then redis.call('HINCRBY', KEYS[1], 'token', 1) end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'ends', string.format('%.0f', now + ARGV[2]))
return tonumber(redis.call('HGET', KEYS[1], 'token'))
""",
)

#: Give a lease up.
#:   KEYS  1 lease
#:   ARGV  1 holder
_RELEASE: Final = Script.of("""
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'holder', 'ends')
end
""")

_LETTER_KEY = re.compile(r"\d+-\d+")


class RedisLedger:
    """The durable small state. Any thread."""

    def __init__(self, connections: Connections, keys: Keys, clock: Clock) -> None:
        self._connections = connections
        self._keys = keys
        self._clock = clock

    def dead_letters(self, *, limit: int = 100, after: str = "") -> Sequence[DeadLetter]:
        start = f"({after}" if after else "-"
        entries = self._connections.call("XRANGE", self._keys.dead, start, "+", "COUNT", limit)
        return [self._letter(key.decode(), fields) for key, fields in entries]

    def requeue(self, keys: Sequence[str]) -> int:
        known = [key for key in keys if _LETTER_KEY.fullmatch(key)]
        return int(self._run(_REQUEUE, (self._keys.dead,), *known)) if known else 0

    def drop(self, keys: Sequence[str]) -> int:
        known = [key for key in keys if _LETTER_KEY.fullmatch(key)]
        return int(self._connections.call("XDEL", self._keys.dead, *known)) if known else 0

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        for each in letters:
            envelope = pack(each.message, delivery_tag=new_id())
            place = f"{self._keys.prefix}{each.queue}{self._keys.suffix(each.message.priority)}"
            facts = ("list", place, "reason", each.reason, "crashes", each.crashes)
            self._connections.call("XADD", self._keys.dead, "*", "envelope", envelope, *facts)

    def charge(self, dead: Sequence[DeadConsumer], *, expires_in: float) -> None:
        start = (self._keys.charge, int(expires_in * 1000))
        for each in dead:
            more = each.charge
            charge = (more.crashes, int(more.suspect), more.verdict)
            known = (self._keys.charged + each.consumer_id,)
            self._run(_CHARGE, known, *start, *charge, *dict.fromkeys(each.running))

    def charges(self, message_ids: Sequence[str]) -> dict[str, Charge]:
        if not message_ids:
            return {}
        found = self._run(_CHARGES, (), self._keys.charge, *message_ids)
        return {
            text(message_id): Charge(int(crashes), suspect == b"1", text(verdict))
            for message_id, crashes, suspect, verdict in zip(*[iter(found)] * 4, strict=True)
        }

    def absolve(self, message_ids: Sequence[str]) -> None:
        if message_ids:
            self._connections.call("DEL", *(self._keys.charge + each for each in message_ids))

    def revoke(
        self, task_ids: Sequence[str], *, expires_in: float, by: str = "", signal: str = ""
    ) -> None:
        if task_ids:
            keys = self._keys
            where = (keys.revoked, keys.revocations, keys.revision)
            said = json.dumps({"by": by, "at": self._clock.now(), "signal": signal})
            self._run(_REVOKE, where, _microseconds(expires_in), said, *task_ids)

    def revoked(self, task_ids: Sequence[str]) -> dict[str, Revocation]:
        if not task_ids:
            return {}
        where = (self._keys.revoked, self._keys.revocations)
        found = self._run(_REVOKED, where, *task_ids)
        pairs = zip(found[::2], found[1::2], strict=True)
        return {text(each): Revocation(**json.loads(said)) for each, said in pairs}

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        facts = json.dumps(dict(record))
        self._run(_ANNOUNCE, self._node_keys(), node, facts, _microseconds(expires_in))

    def nodes(self) -> dict[str, dict[str, Any]]:
        found = self._run(_NODES, self._node_keys())
        pairs = zip(found[::2], found[1::2], strict=True)
        return {text(node): json.loads(record) for node, record in pairs}

    def retire(self, node: str) -> None:
        for key, verb in zip(self._node_keys(), ("HDEL", "ZREM"), strict=True):
            self._connections.call(verb, key, node)

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        token = self._run(_ACQUIRE, (self._keys.lease + name,), holder, _microseconds(lease))
        return None if token is None else int(token)

    def release(self, name: str, holder: str) -> None:
        self._run(_RELEASE, (self._keys.lease + name,), holder)

    def _run(self, script: Script, keys: Sequence[str], *arguments: str | float) -> Any:
        return self._connections.run(script, keys, [arguments])[0]

    def _node_keys(self) -> tuple[str, str]:
        return self._keys.nodes, self._keys.node_ends

    def _letter(self, key: str, fields: list[bytes]) -> DeadLetter:
        facts = dict(zip(fields[::2], fields[1::2], strict=True))
        return DeadLetter(
            key=key,
            message=unpack(facts[b"envelope"])[0],
            queue=self._keys.queue(text(facts[b"list"])),
            reason=text(facts[b"reason"]),
            died_at=int(key.partition("-")[0]) / 1000,
            crashes=int(facts[b"crashes"]),
        )


def revocations(link: Link, keys: Keys, monotonic: Callable[[], float]) -> dict[str, float]:
    """Return the ids of all tasks that are revoked and the monotonic times at which that ends."""
    (left,) = link.run(_ALL_REVOKED, [keys.revoked], [()])
    now = monotonic()
    pairs = zip(left[::2], left[1::2], strict=True)
    return {text(each): now + microseconds / 1_000_000 for each, microseconds in pairs}


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
