"""Pieces of Lua for joins, in Celery's own keys: workers of both kinds count the same members.

Of a join (wire-protocol 4.6), all behind the group's id: ``.j`` the parts by index, ``.d`` the
members counted, ``.s`` their number, ``.t`` how many were added to it, ``.c`` who sends the body.
Celery's workers claim that for some seconds. We claim it until the join expires and keep a list of
the joins we claimed (``complete``): whoever closes one takes it from there, so the body is sent
once however many try; and nobody of Celery's tries any more.

A join is in ``waiting`` from the time one of us met it until it is complete. Its entry is looked at
now and then: a Celery worker may have been the last to arrive and have died with its claim. Then,
when the join was seen to be full and unclaimed for a while, we take it over.

``joins .. id`` is the context: what is needed to make the body.
"""

from __future__ import annotations

from typing import Final

#: A commit without joins: what ``_PERFORM`` asks for, at no cost.
JOINLESS: Final = """
local FIRST, HEAD = 8, 8
local joined = {}
local function joining_arguments() return 0 end
local function is_passed_over() return false end
local function join() end
"""

#: Opening, arriving, closing. Needs GROUPS and JOINS, beginnings of keys, COMPLETE and WAITING.
TABLE: Final = """
-- Milliseconds for which a closed join is known to be closed, as with Celery.
local CLOSED_TTL = 300000

local function keep_for(key, ttl)
  if ttl ~= '' then redis.call('PEXPIRE', key, ttl) end
end

local function set(key, value, ttl, only_if)
  local options = {}
  if ttl ~= '' then options[1] = 'PX'; options[2] = ttl end
  if only_if then options[#options + 1] = only_if end
  return redis.call('SET', key, value, unpack(options))
end

local function is_full(id)
  local size = redis.call('GET', GROUPS .. id .. '.s')
  if not size then return false end
  local added = redis.call('GET', GROUPS .. id .. '.t') or 0
  return redis.call('ZCARD', GROUPS .. id .. '.j') >= size + added
end

local function meet(id, context, ttl)
  if set(JOINS .. id, context, ttl, 'NX') then redis.call('ZADD', WAITING, now_us(), id) end
end

-- Claim a full join; tell whether nobody had.
local function complete(id, context, ttl)
  if not set(GROUPS .. id .. '.c', 'umbel', ttl, 'NX') then return false end
  if context ~= '' then set(JOINS .. id, context, ttl) end
  redis.call('ZADD', COMPLETE, now_us(), id)
  redis.call('ZREM', WAITING, id)
  return true
end

local function open_join(id, size, context, ttl)
  if redis.call('EXISTS', GROUPS .. id .. '.c') == 1 then return end
  meet(id, context, ttl)
  if set(GROUPS .. id .. '.s', size, ttl, 'NX') and is_full(id) then complete(id, '', ttl) end
end

-- Note an arrival; tell whether it completes the join.
local function arrive(id, member, index, part, context, ttl)
  if redis.call('EXISTS', GROUPS .. id .. '.c') == 1 then return false end
  if context == '' and redis.call('EXISTS', JOINS .. id, GROUPS .. id .. '.s') == 0 then
    return false
  end
  if redis.call('SADD', GROUPS .. id .. '.d', member) == 1 then
    redis.call('ZADD', GROUPS .. id .. '.j', index, part)
    keep_for(GROUPS .. id .. '.d', ttl)
    keep_for(GROUPS .. id .. '.j', ttl)
  end
  if context ~= '' then meet(id, context, ttl) end
  return is_full(id) and complete(id, context, ttl)
end

local function close(id)
  redis.call('ZREM', COMPLETE, id)
  for _, part in ipairs({'.j', '.t', '.s', '.d'}) do redis.call('DEL', GROUPS .. id .. part) end
  redis.call('DEL', JOINS .. id, JOINS .. id .. ':full')
  redis.call('SET', GROUPS .. id .. '.c', 'done', 'PX', CLOSED_TTL)
end
"""

#: A commit with joins.
JOINING: Final = (
    """
local GROUPS, JOINS, COMPLETE, WAITING = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local FIRST, HEAD = 12, 11
local joined = {}
"""
    + TABLE
    + """
local function joining_arguments(i) return 4 * ARGV[i + 9] + 6 * ARGV[i + 10] end

local function is_passed_over(i)
  return ARGV[i + 8] ~= '' and not redis.call('ZSCORE', COMPLETE, ARGV[i + 8])
end

local function join(i, first)
  if ARGV[i + 8] ~= '' then close(ARGV[i + 8]) end
  local arrivals = first + 4 * ARGV[i + 9]
  for a = first, arrivals - 1, 4 do open_join(ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]) end
  for a = arrivals, arrivals + 6 * ARGV[i + 10] - 1, 6 do
    if arrive(ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]) then
      joined[#joined + 1] = ARGV[a]
    end
  end
end
"""
)
