"""Pieces of Lua that several scripts share, and how messages and results are handed to them.

A *message* is five arguments: exchange, routing key, end of the list's key (its bucket), delay in
microseconds ("0" = none) or "!" and why it cannot be stored, envelope. A *result* is four: task id,
milliseconds to keep it ("" = for ever), "1" if it is final, meta.
"""

from __future__ import annotations

from typing import Final

#: Server time in microseconds.
CLOCK: Final = """
local function now_us()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
"""

#: Routing and storing of messages. Begins the argument and key tables of its scripts:
#:   KEYS  1 exchanges   2 queues   3 leases   4 dead
#:   ARGV  1 key prefix   2 separator   3 beginning of bindings   4 beginning of delayed
#:         5 beginning of served; "" = who consumes makes no difference
ROUTING: Final = """
local EXCHANGES, QUEUES, CONSUMER_LEASES, DEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local PREFIX, SEPARATOR, BINDINGS, DELAYED, SERVED = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local function words(text)
  local list = {}
  for word in string.gmatch(text .. '.', '([^.]*)%.') do list[#list + 1] = word end
  return list
end

-- The same steps as umbel.topology.topic_matches: ends[i] = the pattern so far can end at word i.
local function topic_matches(pattern, key)
  local keys = words(key)
  local ends = {[0] = true}
  for _, part in ipairs(words(pattern)) do
    local stepped = {}
    if part == '#' then
      local open = false
      for i = 0, #keys do open = open or ends[i]; stepped[i] = open end
    else
      for i = 1, #keys do stepped[i] = ends[i - 1] and (part == '*' or part == keys[i]) end
    end
    ends = stepped
  end
  return ends[#keys]
end

-- Queues of a fanout exchange that are not ours get messages by its channel, not by a list.
local function takes(kind, bound, queue, key)
  if kind == 'fanout' then return redis.call('HEXISTS', QUEUES, queue) == 1 end
  if kind == 'topic' then return topic_matches(bound, key) end
  return bound == key
end

local function bound_queues(exchange, key)
  local kind = redis.call('HGET', EXCHANGES, exchange) or 'direct'
  local found, seen = {}, {}
  for _, member in ipairs(redis.call('SMEMBERS', BINDINGS .. exchange)) do
    local first = string.find(member, SEPARATOR, 1, true)
    local second = first and string.find(member, SEPARATOR, first + #SEPARATOR, true)
    if second then
      local queue = string.sub(member, second + #SEPARATOR)
      if not seen[queue] and takes(kind, string.sub(member, 1, first - 1), queue, key) then
        seen[queue] = true
        found[#found + 1] = queue
      end
    end
  end
  return found
end

local function is_free_for(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none'
end

local function bury(list, envelope, reason, crashes)
  redis.call('XADD', DEAD, '*', 'envelope', envelope, 'list', list, 'reason', reason,
    'crashes', crashes)
end

-- Queues with a most of messages that may wait: name -> properties, with their lists.
local limited = {}
local function learn(queue, said)
  if not said or said == '{}' then return end
  local properties = cjson.decode(said)
  if not properties.max_length then return end
  local overflow = (properties.arguments or {})['x-overflow']
  properties.refuses = overflow == 'reject-publish' or overflow == 'reject-publish-dlx'
  limited[queue] = properties
end

local function excess(about)
  local waiting = 0
  for _, list in ipairs(about.lists) do
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then waiting = waiting + length end
  end
  return waiting - about.max_length
end

-- Of what is too much, the oldest of the least urgent goes to the dead letters.
local function trim(queue)
  local about = limited[queue]
  if not about or about.refuses then return end
  local over = excess(about)
  for i = #about.lists, 1, -1 do
    while over > 0 do
      local envelope = redis.pcall('RPOP', about.lists[i])
      if type(envelope) ~= 'string' then break end
      local reason = string.format('the queue is full (max_length %d)', about.max_length)
      bury(about.lists[i], envelope, reason, 0)
      over = over - 1
    end
  end
end

-- Memory of one run: exchange and key and bucket -> lists, or nil and why there are none.
local resolved, refusals, queue_of = {}, {}, {}
local function add_list(lists, queue, suffix)
  local list = PREFIX .. queue .. suffix
  lists[#lists + 1] = list
  queue_of[list] = queue
  learn(queue, redis.call('HGET', QUEUES, queue))
end

local function lists_for(exchange, key, suffix)
  local route = exchange .. '\\0' .. key .. '\\0' .. suffix
  if resolved[route] == nil then
    local lists, problem = {}, nil
    if exchange ~= '' then
      for _, queue in ipairs(bound_queues(exchange, key)) do add_list(lists, queue, suffix) end
      if #lists == 0 then
        problem = 'no queue is bound to exchange ' .. exchange .. ' for key ' .. key
      end
    elseif redis.call('HEXISTS', QUEUES, key) == 1 then
      add_list(lists, key, suffix)
    else
      problem = 'there is no queue ' .. key
    end
    for _, list in ipairs(lists) do
      if not is_free_for(list, 'list') then problem = 'the key ' .. list .. ' holds no queue' end
    end
    resolved[route], refusals[route] = lists, problem
  end
  return resolved[route], refusals[route]
end

-- The lists for the message whose arguments begin at i, or nil and why it cannot be stored.
local function destination(i)
  if string.sub(ARGV[i + 3], 1, 1) == '!' then return nil, string.sub(ARGV[i + 3], 2) end
  local lists, problem = lists_for(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if problem or not next(limited) then return lists, problem end
  for _, list in ipairs(lists) do
    local about = limited[queue_of[list]]
    if about and about.refuses and excess(about) >= 0 then
      return nil, string.format('queue %s is full (max_length %d)', queue_of[list],
        about.max_length)
    end
  end
  return lists
end

-- Whether an umbel's worker consumes the queue; it makes ready what is due. Others do not, so
-- without one a message with a delay goes out at once, as Celery's clients send it.
local now = nil
local served = {}
local function is_served(queue)
  if SERVED == '' then return true end
  if served[queue] == nil then
    served[queue] = false
    for _, id in ipairs(redis.call('SMEMBERS', SERVED .. queue)) do
      local ends = redis.call('ZSCORE', CONSUMER_LEASES, id)
      if ends and tonumber(ends) > now then served[queue] = true; break end
    end
  end
  return served[queue]
end

-- Messages of one batch that are due together keep their order: each is due a microsecond later.
local stored = 0
local function push(list, envelope)
  redis.call('LPUSH', list, envelope)
  trim(queue_of[list])
end

local function store(lists, delay, envelope)
  if delay == '0' then
    for _, list in ipairs(lists) do push(list, envelope) end
    return
  end
  now = now or now_us()
  stored = stored + 1
  for _, list in ipairs(lists) do
    if is_served(queue_of[list]) then
      redis.call('ZADD', DELAYED .. list, now + delay + stored, envelope)
    else
      push(list, envelope)
    end
  end
end
"""

#: Giving back what a consumer holds. Needs KEYS and beginnings under these names:
#:   MARKS, LEASES, and beginnings HELD, CONSUMER, SERVED; and CROWD
HOLDS: Final = """
-- Seconds after the last mark until all are forgotten: of messages that Celery's workers finished.
local MARKS_TTL = 30 * 86400

local function mark(envelope, crash, loss, suspect, verdict)
  local id = redis.sha1hex(envelope)
  local old = redis.call('HGET', MARKS, id) or '0 0 0 '
  local crashes, losses, doubt, why = string.match(old, '^(%d+) (%d+) (%d) (.*)$')
  if suspect then doubt = 1 end
  if verdict ~= '' then why = verdict end
  local text = (crashes + crash) .. ' ' .. (losses + loss) .. ' ' .. doubt .. ' ' .. why
  redis.call('HSET', MARKS, id, text)
  redis.call('EXPIRE', MARKS, MARKS_TTL)
end

-- Queues that nobody consumes any more.
local left = {}

-- End a consumer; what it holds goes to the front of its lists in the order it came.
-- judge(tag, envelope) marks a message; nil = all go back free.
local function release(id, judge)
  local fields = redis.call('HGETALL', HELD .. id)
  local tags = {}
  for i = 1, #fields, 2 do
    local number, list = string.match(fields[i], '^(%d+):(.*)$')
    tags[#tags + 1] = {tonumber(number), list, fields[i], fields[i + 1]}
  end
  table.sort(tags, function(a, b) return a[1] > b[1] end)
  for _, each in ipairs(tags) do
    redis.call('RPUSH', each[2], each[4])
    if judge then judge(each[3], each[4]) end
  end
  local queues = redis.call('HGET', CONSUMER .. id, 'queues') or '[]'
  for _, queue in ipairs(cjson.decode(queues)) do
    redis.call('SREM', SERVED .. queue, id)
    leave(queue, id)
    if redis.call('EXISTS', SERVED .. queue) == 0 then left[#left + 1] = queue end
  end
  redis.call('DEL', HELD .. id, CONSUMER .. id)
  redis.call('ZREM', LEASES, id)
  return #tags
end
"""

#: Storing results. Needs RESULTS and SUCCESSES, beginnings of keys.
RESULTS: Final = """
-- A success says so in its first bytes, as Celery writes them; one in another serializer, or
-- compressed, is known by a mark beside it.
local function says_success(meta)
  return string.find(meta, '^{"status": ?"SUCCESS"') ~= nil
end

local function keep(key, ttl, value)
  if ttl == '' then redis.call('SET', key, value) else redis.call('SET', key, value, 'PX', ttl) end
end

local function keep_if_new(key, ttl, value)
  if ttl == '' then return redis.call('SET', key, value, 'NX') end
  return redis.call('SET', key, value, 'PX', ttl, 'NX')
end

-- Most results are their task's first: one call.
local function put(id, ttl, final, meta)
  local key = RESULTS .. id
  if not keep_if_new(key, ttl, meta) then
    local old = redis.pcall('GET', key)
    if type(old) == 'string' then
      if says_success(old) or redis.call('EXISTS', SUCCESSES .. id) == 1 then return end
    end
    keep(key, ttl, meta)
  end
  if final == '1' and not says_success(meta) then keep(SUCCESSES .. id, ttl, '1') end
  redis.call('PUBLISH', key, meta)
end
"""

#: Who waits for what. Needs beginnings ARMED, IDLE, WAKE. Of all that wait for a queue a few are
#: *armed*: the server tells them of each change. The others are *idle*, and sleep until somebody
#: wakes them: who goes to work, or takes all it can carry and leaves more.
CROWD: Final = """
local MOST_ARMED = 4

-- Wake so many that sleep, those who came last first. Who does not hear is gone.
local function wake(queue, count)
  while count > 0 do
    local next = redis.call('ZPOPMAX', IDLE .. queue)
    if not next[1] then return end
    count = count - redis.call('PUBLISH', WAKE .. next[1], '')
  end
end

-- No longer wait for a queue; another is armed instead.
local function leave(queue, id)
  redis.call('ZREM', IDLE .. queue, id)
  if redis.call('ZREM', ARMED .. queue, id) == 1 then wake(queue, 1) end
end
"""
