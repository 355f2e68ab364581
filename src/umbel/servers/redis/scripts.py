"""What is done on the server in one step: Lua scripts, and the pieces they share.

Rules that every script keeps:

- A script that errors midway keeps what it wrote. So types and targets are checked before the first
  write, and the first write of receiving and committing needs no memory (RPOP, ZREM): a server that
  is full refuses a script's first write if it needs room, but none after it.
- An envelope or result is never decoded, only moved: Lua's JSON would turn [] into {} and round
  large integers.
- Times are microseconds of the server's clock; doubles hold them exactly until the year 2255.
- Keys that depend on data (the queue a topic leads to) are built here from the beginnings that are
  passed in, so nothing but ``keys.py`` knows names. With a ``global_keyprefix`` of the form "{tag}"
  all of them are in one slot of a cluster.
"""

from __future__ import annotations

from typing import Final

from umbel.servers.redis.connection import Script
from umbel.servers.redis.joining import JOINING, JOINLESS
from umbel.servers.redis.pieces import CLOCK, CROWD, HOLDS, RESULTS, ROUTING

#: Make exchanges, queues and bindings exist; all or, on a conflict, nothing.
#:   KEYS  1 exchanges   2 queues
#:   ARGV  1 beginning of bindings   2 beginning of permanent bindings   3 count of exchanges
#:         4 count of queues, then for each exchange name, type; for each queue name, properties;
#:         then for each binding exchange, member, "1" if its queue never expires
#:   ->    name of what exists with other properties and those, or {}
DECLARE: Final = Script.of(
    """
local bindings, permanent = ARGV[1], ARGV[2]
local exchanges, queues = tonumber(ARGV[3]), tonumber(ARGV[4])
local middle = 5 + 2 * exchanges
local last = middle + 2 * queues
for i = 5, last - 1, 2 do
  local old = redis.call('HGET', i < middle and KEYS[1] or KEYS[2], ARGV[i])
  if old and old ~= ARGV[i + 1] then return {ARGV[i], old, ARGV[i + 1]} end
end
for i = 5, last - 1, 2 do
  redis.call('HSET', i < middle and KEYS[1] or KEYS[2], ARGV[i], ARGV[i + 1])
end
for i = last, #ARGV, 3 do
  redis.call('SADD', bindings .. ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] == '1' then redis.call('SADD', permanent .. ARGV[i], ARGV[i + 1]) end
end
return {}
"""
)

#: Store messages, in order. The usual case, one message for a queue and at once, comes first: it
#: takes half the server's time that making the functions for the others takes.
#:   KEYS and ARGV  those of routing and storing, then the messages
#:   ->    for each message refused its number (from 0) and why
PUBLISH: Final = Script.of(
    """
if #ARGV == 10 and ARGV[6] == '' and ARGV[9] == '0' then
  if redis.call('HGET', KEYS[2], ARGV[7]) == '{}' then
    local length = redis.pcall('LPUSH', ARGV[1] .. ARGV[7] .. ARGV[8], ARGV[10])
    if type(length) == 'number' then return {} end
  end
end
""",
    CLOCK,
    ROUTING,
    """
local refused = {}
for i = 6, #ARGV, 5 do
  local lists, problem = destination(i)
  if problem then
    refused[#refused + 1] = (i - 6) / 5
    refused[#refused + 1] = problem
  else
    store(lists, ARGV[i + 3], ARGV[i + 4])
  end
end
return refused
""",
)

#: Give a consumer messages: what is due moves from the delayed ones to its list, then messages move
#: from lists to the hold.
#:   KEYS  1 consumer   2 held   3 marks   4 revision,
#:         then pairs of a list and its delayed messages, first to be received first
#:   ARGV  1 number of the last message it knows of   2 limit   3 bytes after which to stop
#:         4 "1" if it has waited   5 consumer id   6 beginning of armed   7 beginning of idle
#:         8 beginning of wake, then its queues in the order of their lists
#:   ->    nothing, if the server knows no such consumer; else
#:         1 number of the last message given   2 revision   3 tags and envelopes in turn
#:         4 numbers from 1 and marks in turn
#: A number that differs from the server's means that a reply was lost: what it gave is given again.
RESERVE: Final = Script.of(
    CLOCK,
    "local ARMED, IDLE, WAKE = ARGV[6], ARGV[7], ARGV[8]",
    CROWD,
    """
local CHUNK = 50
local now = now_us()
local given, marks = {}, {}
local any_marks = redis.call('EXISTS', KEYS[3]) == 1

local function give(tag, envelope)
  given[#given + 1] = tag
  given[#given + 1] = envelope
  local mark = any_marks and redis.call('HGET', KEYS[3], redis.sha1hex(envelope))
  if mark then
    marks[#marks + 1] = #given / 2
    marks[#marks + 1] = mark
  end
end

local function answer(number)
  return {tonumber(number), tonumber(redis.call('GET', KEYS[4]) or 0), given, marks}
end

local number = redis.call('HGET', KEYS[1], 'number')
if not number then return false end
if number ~= ARGV[1] then
  local fields, lost = redis.call('HGETALL', KEYS[2]), {}
  for i = 1, #fields, 2 do
    local at = tonumber(string.match(fields[i], '^%d+'))
    if at > tonumber(ARGV[1]) then lost[#lost + 1] = {at, fields[i], fields[i + 1]} end
  end
  table.sort(lost, function(a, b) return a[1] < b[1] end)
  for _, each in ipairs(lost) do give(each[2], each[3]) end
  return answer(number)
end

local function promote(list, delayed, most)
  local due = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, most)
  if #due == 0 then return end
  redis.call('ZREM', delayed, unpack(due))
  for i = #due, 1, -1 do redis.call('RPUSH', list, due[i]) end
end

local last, wanted, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local problem
for i = 5, #KEYS, 2 do
  while wanted > 0 and room > 0 do
    local most = math.min(wanted, CHUNK)
    promote(KEYS[i], KEYS[i + 1], most)
    local taken = redis.pcall('RPOP', KEYS[i], most)
    if not taken then break end
    if taken.err then problem = taken.err .. ' (key ' .. KEYS[i] .. ')'; break end
    local hold = {}
    for _, envelope in ipairs(taken) do
      last = last + 1
      local tag = string.format('%.0f:', last) .. KEYS[i]
      hold[#hold + 1] = tag
      hold[#hold + 1] = envelope
      give(tag, envelope)
      room = room - #envelope
    end
    redis.call('HSET', KEYS[2], unpack(hold))
    wanted = wanted - #taken
  end
end
if #given > 0 then
  redis.call('HSET', KEYS[1], 'number', string.format('%.0f', last))
  local full, queues = wanted == 0 or room <= 0, #ARGV - 8
  for q = 1, queues do
    local queue = ARGV[8 + q]
    if ARGV[4] == '1' then leave(queue, ARGV[5]) end
    for i = 3 + 2 * q, full and #KEYS or 0, 2 * queues do
      if redis.call('EXISTS', KEYS[i]) == 1 then wake(queue, 2); break end
    end
  end
elseif problem then
  return redis.error_reply(problem)
end
return answer(last)
""",
)

#: Wait: for some queues armed, for others asleep. Of the former every key is read, so that CLIENT
#: TRACKING, asked to for this script alone, tells the connection of the next change to any of them.
#:   KEYS  as those of RESERVE
#:   ARGV  as those of RESERVE from the consumer id on
#:   ->    microseconds until the next message is due (-1 = none), 0 if there is one
ARM: Final = Script.of(
    CLOCK,
    "local ID, ARMED, IDLE, WAKE = ARGV[1], ARGV[2], ARGV[3], ARGV[4]",
    CROWD,
    """
-- Microseconds after which one that is armed, and did not ask again, is taken for dead.
local STALE = 20000000
local now, wait = now_us(), -1

-- Who came last is one too many.
local function is_armed(queue)
  redis.call('ZREMRANGEBYSCORE', ARMED .. queue, '-inf', now - STALE)
  redis.call('ZADD', ARMED .. queue, now, ID)
  if redis.call('ZREMRANGEBYRANK', ARMED .. queue, MOST_ARMED, -1) > 0 then
    redis.call('ZADD', IDLE .. queue, now, ID)
    return false
  end
  redis.call('ZREM', IDLE .. queue, ID)
  return true
end

local function look(list, delayed)
  local length = redis.pcall('LLEN', list)
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if type(length) == 'number' and length > 0 then
    wait = 0
  elseif first[2] then
    local left = math.max(0, first[2] - now)
    if wait < 0 or left < wait then wait = left end
  end
end

local queues = #ARGV - 4
for q = 1, queues do
  if is_armed(ARGV[4 + q]) then
    for i = 3 + 2 * q, #KEYS, 2 * queues do look(KEYS[i], KEYS[i + 1]) end
  end
end
return wait
""",
)

#: Begin a consumer, or begin it anew after its lease was lost. Its numbers go on.
#:   KEYS  1 consumer   2 leases
#:   ARGV  1 consumer id   2 number of the last message it knows of   3 lease
#:         4 beginning of served, then its queues
BEGIN: Final = Script.of(
    CLOCK,
    """
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[2], now_us() + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], 'number', ARGV[2], 'queues', cjson.encode({unpack(ARGV, 5)}))
for i = 5, #ARGV do redis.call('SADD', ARGV[4] .. ARGV[i], ARGV[1]) end
""",
)

#: Let messages wait until they are due, which were sent at once all the same.
#:   KEYS  1 held
#:   ARGV  1 beginning of delayed, then tags and delays in turn
PARK: Final = Script.of(
    CLOCK,
    """
local now = now_us()
for i = 2, #ARGV, 2 do
  local envelope = redis.call('HGET', KEYS[1], ARGV[i])
  if envelope then
    redis.call('HDEL', KEYS[1], ARGV[i])
    local list = string.match(ARGV[i], '^%d+:(.*)$')
    redis.call('ZADD', ARGV[1] .. list, now + ARGV[i + 1] + i / 2, envelope)
  end
end
""",
)

#: Return messages that were never started to the front of their lists. The last one first.
#:   KEYS  1 held
#:   ARGV  tags
#:   ->    how many were still held
GIVE_BACK: Final = Script.of(
    """
local count = 0
for _, tag in ipairs(ARGV) do
  local envelope = redis.call('HGET', KEYS[1], tag)
  if envelope then
    redis.call('HDEL', KEYS[1], tag)
    redis.call('RPUSH', string.match(tag, '^%d+:(.*)$'), envelope)
    count = count + 1
  end
end
return count
"""
)

#: Extend leases.
#:   KEYS  1 leases
#:   ARGV  1 lease, then consumer ids
#:   ->    the ids that have none
RENEW: Final = Script.of(
    CLOCK,
    """
local ends = now_us() + ARGV[1]
local lost = {}
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
""",
)

_CONSUMERS: Final = """
local LEASES, MARKS = KEYS[1], KEYS[2]
local HELD, CONSUMER, SERVED = ARGV[1], ARGV[2], ARGV[3]
local ARMED, IDLE, WAKE = ARGV[4], ARGV[5], ARGV[6]
"""

#: End a consumer whose process ended it or is known to have died.
#:   KEYS  1 leases   2 marks
#:   ARGV  1 beginning of held   2 beginning of consumer   3 beginning of served
#:         4 beginning of armed   5 beginning of idle   6 beginning of wake
#:         7 consumer id   8 verdict, then the tags of what was running
#:   ->    how many messages went back, and the queues that nobody consumes any more
END_CONSUMER: Final = Script.of(
    _CONSUMERS,
    CROWD,
    HOLDS,
    """
local running = {}
for i = 9, #ARGV do running[ARGV[i]] = true end
local alone = #ARGV == 9
local verdict = ARGV[8]
local count = release(ARGV[7], function(tag, envelope)
  if not running[tag] then return end
  if verdict ~= '' then
    mark(envelope, 0, 0, false, verdict)
  else
    mark(envelope, alone and 1 or 0, 0, not alone, '')
  end
end)
return {count, left}
""",
)

#: End every consumer whose lease has ended; each message it held counts a loss.
#:   KEYS  1 leases   2 marks
#:   ARGV  beginnings, the same as there
#:   ->    the same
RECOVER: Final = Script.of(
    CLOCK,
    _CONSUMERS,
    CROWD,
    HOLDS,
    """
local count = 0
for _, id in ipairs(redis.call('ZRANGE', LEASES, '-inf', now_us(), 'BYSCORE')) do
  count = count + release(id, function(tag, envelope) mark(envelope, 0, 1, false, '') end)
end
return {count, left}
""",
)

#: Delete a queue that has no consumer, and shall end with its last one or now.
#:   KEYS  1 queues   2 exchanges   3 served
#:   ARGV  1 its name   2 beginning of bindings   3 beginning of permanent bindings   4 separator
#:         5 "1" = now, then its lists and delayed messages
DELETE_QUEUE: Final = Script.of(
    """
local properties = redis.call('HGET', KEYS[1], ARGV[1])
if not properties or redis.call('EXISTS', KEYS[3]) == 1 then return end
local ends = cjson.decode(properties)
if not (ends.auto_delete or ends.exclusive or ARGV[5] == '1') then return end
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 6, #ARGV do redis.call('DEL', ARGV[i]) end
local tail = ARGV[4] .. ARGV[1]
for _, exchange in ipairs(redis.call('HKEYS', KEYS[2])) do
  for _, member in ipairs(redis.call('SMEMBERS', ARGV[2] .. exchange)) do
    if string.sub(member, -#tail) == tail then
      redis.call('SREM', ARGV[2] .. exchange, member)
      redis.call('SREM', ARGV[3] .. exchange, member)
    end
  end
end
"""
)

#: Perform effects.
#:   KEYS  those of routing and storing, then 5 marks
#:   ARGV  those of routing and storing, then
#:         6 beginning of results   7 beginning of successes, then for each effect
#:         held key ("" = nothing is held), tag, ending, reason, "1" if it has a mark, crashes,
#:         count of results, count of messages, the results, the messages
#:   ->    numbers (from 0) of effects whose delivery was not held; and of messages that cannot be
#:         stored, for which nothing of their effect was done: the effect's number, the message's
#:         within it, and the reason
_COMMIT: Final = (
    CLOCK,
    ROUTING,
    """
local MARKS = KEYS[5]
local RESULTS, SUCCESSES = ARGV[6], ARGV[7]
""",
    RESULTS,
    """
-- Note which of an effect's messages cannot be stored; tell whether there are any.
local refused = {}
local function refuses(number, first, last)
  local before = #refused
  for i = first, last, 5 do
    local _, problem = destination(i)
    if problem then refused[#refused + 1] = {number, (i - first) / 5, problem} end
  end
  return #refused > before
end

-- Ends what is known to be held.
local function end_hold(held, tag, ending, marked, reason, crashes)
  local envelope = (marked or ending ~= 'ack') and redis.call('HGET', held, tag)
  redis.call('HDEL', held, tag)
  if marked and ending ~= 'requeue' then redis.call('HDEL', MARKS, redis.sha1hex(envelope)) end
  if ending == 'ack' then return end
  local list = string.match(tag, '^%d+:(.*)$')
  if ending == 'requeue' then
    redis.call('LPUSH', list, envelope)
  else
    bury(list, envelope, reason, crashes)
  end
end
""",
)

_PERFORM: Final = """
-- A write that needs no memory goes first: a full server refuses no other after it.
redis.call('ZREM', KEYS[3], '')
local stale = {}
local i, number = FIRST, 0
while i <= #ARGV do
  local held, tag, ending, reason = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local marked, crashes = ARGV[i + 4] == '1', ARGV[i + 5]
  local results = i + HEAD
  local messages = results + 4 * ARGV[i + 6]
  local after = messages + 5 * ARGV[i + 7]
  local next_effect = after + joining_arguments(i)
  -- The end of most is their fence as well: one call.
  local plain = ending == 'ack' and not marked and after == messages
  local ours = held == '' or redis.call(plain and 'HDEL' or 'HEXISTS', held, tag) == 1
  there()
  local passed_over = is_passed_over(i)
  here()
  if not ours or passed_over then
    if not ours then stale[#stale + 1] = number end
  elseif not refuses(number, messages, after - 1) then
    there()
    for r = results, messages - 1, 4 do put(ARGV[r], ARGV[r + 1], ARGV[r + 2], ARGV[r + 3]) end
    here()
    for m = messages, after - 1, 5 do store(destination(m), ARGV[m + 3], ARGV[m + 4]) end
    if held ~= '' and not plain and ending ~= 'keep' then
      end_hold(held, tag, ending, marked, reason, crashes)
    end
    there()
    join(i, after)
    here()
  end
  i, number = next_effect, number + 1
end
return {stale, refused, joined}
"""

_SAME_DATABASE: Final = "local function here() end\nlocal function there() end"


def commit(*, joins: bool, databases: tuple[int, int] | None = None) -> Script:
    """Return the script that performs effects.

    With ``joins``, for effects of which some have to do with joins:
      ARGV  8 beginning of groups   9 beginning of joins   10 complete joins   11 waiting joins;
            each effect has three more arguments behind its counts: the join that it closes ("" =
            none), count of joins it opens, count of arrivals; and these follow its messages
      ->    the ids of joins that were completed as well
    ``databases`` are those of queues and of results and joins, if they are two.
    """
    places = _SAME_DATABASE
    if databases is not None:
        places = "".join(
            f"local function {name}() redis.call('SELECT', {number}) end\n"
            for name, number in zip(("here", "there"), databases, strict=True)
        )
    return Script.of(*_COMMIT, places, JOINING if joins else JOINLESS, _PERFORM)


#: Store results.
#:   KEYS  none that are fixed
#:   ARGV  1 beginning of results   2 beginning of successes, then the results
#:   ->    nothing
PUT: Final = Script.of(
    "local RESULTS, SUCCESSES = ARGV[1], ARGV[2]",
    RESULTS,
    """
for i = 3, #ARGV, 4 do put(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
""",
)

#: Count the messages of queues.
#:   KEYS  1 queues   2 leases
#:   ARGV  1 beginning of held   2 beginning of delayed   3 beginning of served   4 count of lists
#:         per queue, then for each queue its name and its lists
#:   ->    for each queue that exists its name, ready, delayed, held, living consumers of ours, and
#:         the last element of each list that has one
DEPTH: Final = Script.of(
    CLOCK,
    """
local now = now_us()
local held = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  for _, tag in ipairs(redis.call('HKEYS', ARGV[1] .. id)) do
    local list = string.match(tag, '^%d+:(.*)$')
    held[list] = (held[list] or 0) + 1
  end
end
local per_queue, depths = tonumber(ARGV[4]), {}
for i = 5, #ARGV, per_queue + 1 do
  local ready, delayed, holds, oldest, found = 0, 0, 0, {}, false
  for j = i + 1, i + per_queue do
    local list = ARGV[j]
    found = found or redis.call('EXISTS', list, ARGV[2] .. list) > 0
    local due = redis.call('ZCOUNT', ARGV[2] .. list, '-inf', now)
    ready = ready + redis.call('LLEN', list) + due
    delayed = delayed + redis.call('ZCARD', ARGV[2] .. list) - due
    holds = holds + (held[list] or 0)
    oldest[#oldest + 1] = redis.call('LINDEX', list, -1) or nil
  end
  if found or holds > 0 or redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    local consumers = 0
    for _, id in ipairs(redis.call('SMEMBERS', ARGV[3] .. ARGV[i])) do
      if tonumber(redis.call('ZSCORE', KEYS[2], id) or 0) > now then consumers = consumers + 1 end
    end
    depths[#depths + 1] = {ARGV[i], ready, delayed, holds, consumers, oldest}
  end
end
return depths
""",
)

#: Delete what waits.
#:   KEYS  pairs of a list and its delayed messages
#:   ->    how many messages were deleted
PURGE: Final = Script.of(
    """
local count = 0
for i = 1, #KEYS, 2 do
  count = count + redis.call('LLEN', KEYS[i]) + redis.call('ZCARD', KEYS[i + 1])
  redis.call('DEL', KEYS[i], KEYS[i + 1])
end
return count
"""
)
