"""The SQL of messages and results. Above each statement: its parameters and what it returns.

``:ids`` and the like are JSON arrays, so that one statement serves a batch of any size.
"""

from __future__ import annotations

# --- publishing ---------------------------------------------------------------------------------

# parameters  -
# returns     version of the topology, highest id of a message, up to which ids are sorted
STATE = "SELECT topology, (SELECT max(id) FROM messages), sorted FROM state"

# Make all that is in the inbox ready; SORTED follows.
SORT = """
INSERT INTO ready (queue, rank, id)
SELECT queue, rank, id FROM messages
WHERE id > (SELECT sorted FROM state) AND queue IS NOT NULL
"""
SORTED = "UPDATE state SET sorted = max(sorted, (SELECT coalesce(max(id), 0) FROM messages))"

# parameters  1 queue, 2 rank, 3 id
INSERT_READY = "INSERT INTO ready (queue, rank, id) VALUES (?1, ?2, ?3)"

# parameters  1 due, 2 id, 3 queue, 4 rank
INSERT_DELAYED = "INSERT INTO delayed VALUES (?1, ?2, ?3, ?4)"

# --- limits of queues ---------------------------------------------------------------------------

# parameters  1 queue, 2 limit
# returns     how many are ready, at most the limit
COUNT_READY = "SELECT count(*) FROM (SELECT 1 FROM ready WHERE queue = ?1 LIMIT ?2)"

# parameters  1 queue, 2 limit
# returns     rank, id
LEAST_READY = "SELECT rank, id FROM ready WHERE queue = ?1 ORDER BY rank DESC, id LIMIT ?2"

# parameters  1 expires_at, 2 id, 3 queue, 4 rank
INSERT_EXPIRING = "INSERT INTO expiring VALUES (?1, ?2, ?3, ?4)"

# parameters  1 now, 2 limit
# returns     expires_at, id, queue, rank
EXPIRED = """
SELECT expires_at, id, queue, rank FROM expiring WHERE expires_at <= ?1
ORDER BY expires_at, id LIMIT ?2
"""

# parameters  1 expires_at, 2 id
DELETE_EXPIRING = "DELETE FROM expiring WHERE expires_at = ?1 AND id = ?2"

# parameters  1 queue, 2 rank, 3 id
IS_READY = "SELECT 1 FROM ready WHERE queue = ?1 AND rank = ?2 AND id = ?3"
DELETE_READY = "DELETE FROM ready WHERE queue = ?1 AND rank = ?2 AND id = ?3"

# parameters  1 queue, 2 rank, 3 id, 4 queue's name, 5 reason, 6 now
BURY_READY = """
INSERT INTO dead (data, body, queue, reason, died_at, crashes)
SELECT m.data, m.body, ?4, ?5, ?6, r.crashes
FROM ready AS r JOIN messages AS m ON m.id = r.id
WHERE r.queue = ?1 AND r.rank = ?2 AND r.id = ?3
"""

# --- receiving ----------------------------------------------------------------------------------

# What an idle consumer looks at, without the writers' lock.
# parameters  1 queue ids
# returns     version of the topology, whether something is ready,
#             when the next delayed message is due, NULL if there is none
PEEK = """
SELECT topology,
       EXISTS (SELECT 1 FROM ready WHERE queue IN (SELECT value FROM json_each(?1)))
       OR EXISTS (
           SELECT 1 FROM messages
           WHERE id > sorted AND queue IN (SELECT value FROM json_each(?1))
       ),
       (SELECT due FROM delayed ORDER BY due LIMIT 1)
FROM state
"""

# parameters  1 consumer number
# returns     version of the topology, whether the inbox is empty, consumer number (NULL = fenced),
#             due time of the next delayed message, when the next one is too old for its queue,
#             whether anything is revoked
BEGIN_RECEIVE = """
SELECT topology,
       sorted >= (SELECT coalesce(max(id), 0) FROM messages),
       (SELECT number FROM consumers WHERE number = ?1),
       (SELECT due FROM delayed ORDER BY due LIMIT 1),
       (SELECT expires_at FROM expiring ORDER BY expires_at LIMIT 1),
       EXISTS (SELECT 1 FROM revoked)
FROM state
"""

# parameters  1 now, 2 limit
# returns     due, id, queue, rank
DUE = "SELECT due, id, queue, rank FROM delayed WHERE due <= ?1 ORDER BY due, id LIMIT ?2"

# parameters  1 due, 2 id
DELETE_DELAYED = "DELETE FROM delayed WHERE due = ?1 AND id = ?2"


def next_of(queues: int) -> str:
    """Return the statement that picks what to hold from so many queues, in the order of delivery.

    Each queue gives its first ones, so that a long one costs no more than a short one.
    parameters  1 limit, then the ids of the queues
    returns     queue, rank, id
    """
    each = (
        f"SELECT queue, rank, id FROM ready WHERE queue = ?{number + 2} ORDER BY rank, id LIMIT ?1"  # noqa: S608 -- a number of ours
        for number in range(queues)
    )
    if queues == 1:
        return next(each)
    union = " UNION ALL ".join(f"SELECT * FROM ({one})" for one in each)  # noqa: S608 -- statements of ours
    return f"{union} ORDER BY rank, id LIMIT ?1"


def spans_of(queues: int) -> str:
    """Return the statement that says of the same where they are: all that is ready in a few spans.

    parameters  as above
    returns     queue, rank, first id, last id
    """
    return f"SELECT queue, rank, min(id), max(id) FROM ({next_of(queues)}) GROUP BY queue, rank"  # noqa: S608 -- a statement of ours


# parameters  1 consumer number, 2 number of the receive, 3 queue, 4 rank, 5 first id, 6 last id
HOLD = """
INSERT INTO held
SELECT id, ?1, ?2, queue, rank, crashes, losses, suspect, redelivered, verdict FROM ready
WHERE queue = ?3 AND rank = ?4 AND id BETWEEN ?5 AND ?6
"""
# parameters  1 queue, 2 rank, 3 first id, 4 last id
UNREADY = "DELETE FROM ready WHERE queue = ?1 AND rank = ?2 AND id BETWEEN ?3 AND ?4"

# Without the writers' lock. The number of the receive keeps out what lies between these, and was
# received before.
# parameters  1 consumer number, 2 number of the receive, 3 queue, 4 rank, 5 first id, 6 last id
# returns     id, data, body, what happened before: NULL = nothing, or JSON [crashes, losses,
#             suspect, redelivered, verdict]
FETCH = """
SELECT h.id, m.data, m.body,
       CASE WHEN h.crashes OR h.losses OR h.suspect OR h.redelivered OR h.verdict <> ''
       THEN json_array(h.crashes, h.losses, h.suspect, h.redelivered, h.verdict) END
FROM held AS h CROSS JOIN messages AS m ON m.id = h.id
WHERE h.id BETWEEN ?5 AND ?6 AND h.consumer = ?1 AND h.batch = ?2
AND h.queue = ?3 AND h.rank = ?4
ORDER BY h.id
"""

# parameters  1 until, 2 consumer_id
RENEW = "UPDATE consumers SET lease_until = ?1 WHERE consumer_id = ?2"

# --- ending holds -------------------------------------------------------------------------------

# parameters  1 ids
# returns     id, consumer number, queue, rank
HELD = "SELECT id, consumer, queue, rank FROM held WHERE id IN (SELECT value FROM json_each(?1))"

# parameters  1 consumer number, 2 ids
UNHOLD_OURS = """
DELETE FROM held WHERE id IN (SELECT value FROM json_each(?2)) AND consumer = ?1
"""

# parameters  1 ids
UNHOLD = "DELETE FROM held WHERE id IN (SELECT value FROM json_each(?1))"
DELETE_MESSAGES = "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?1))"

# Puts held messages back where they were, first in their queue; UNHOLD follows.
# parameters  1 ids
GIVE_BACK = """
INSERT INTO ready
SELECT queue, rank, id, crashes, losses, suspect, redelivered, verdict FROM held
WHERE id IN (SELECT value FROM json_each(?1))
"""

# The same for all that one consumer holds.
# parameters  1 consumer number, 2 losses to add, 3 whether they count as delivered before
GIVE_BACK_ALL = """
INSERT INTO ready
SELECT queue, rank, id, crashes, losses + ?2, suspect, max(redelivered, ?3), verdict
FROM held WHERE consumer = ?1
"""
# parameters  1 consumer number
UNHOLD_ALL = "DELETE FROM held WHERE consumer = ?1"

# parameters  1 consumer number
# returns     queue, how many messages of it are held
HELD_QUEUES = "SELECT queue, count(*) FROM held WHERE consumer = ?1 GROUP BY queue"

# parameters  1 consumer number
# returns     id, data
HELD_BY = """
SELECT h.id, m.data FROM held AS h JOIN messages AS m ON m.id = h.id WHERE h.consumer = ?1
"""

# parameters  1 id, 2 crashes to add, 3 suspect, 4 verdict ("" = an earlier one stays)
CHARGE = """
UPDATE held
SET crashes = crashes + ?2, suspect = ?3, verdict = coalesce(nullif(?4, ''), verdict)
WHERE id = ?1
"""

# A message that goes behind the others gets a new id, which makes the old hold void as well.
# parameters  1 old id, 2 new id
RENUMBER = "UPDATE messages SET id = ?2, queue = NULL WHERE id = ?1"
# parameters  as above
REQUEUE = """
INSERT INTO ready
SELECT queue, rank, ?2, crashes, losses, suspect, 1, verdict FROM held WHERE id = ?1
"""

# parameters  1 id, 2 queue's name, 3 reason, 4 now
BURY_HELD = """
INSERT INTO dead (data, body, queue, reason, died_at, crashes)
SELECT m.data, m.body, ?2, ?3, ?4, h.crashes
FROM held AS h JOIN messages AS m ON m.id = h.id WHERE h.id = ?1
"""

# --- looking ------------------------------------------------------------------------------------

# A delayed message that is due is ready, although nobody has moved it yet.
# parameters  1 queue, 2 now
# returns     how many are ready, delayed, held, and how many consumers there are
DEPTH = """
SELECT (SELECT count(*) FROM ready WHERE queue = ?1)
     + (SELECT count(*) FROM messages WHERE id > (SELECT sorted FROM state) AND queue = ?1)
     + (SELECT count(*) FROM delayed WHERE queue = ?1 AND due <= ?2),
       (SELECT count(*) FROM delayed WHERE queue = ?1 AND due > ?2),
       (SELECT count(*) FROM held WHERE queue = ?1),
       (SELECT count(*) FROM subscriptions AS s JOIN queues AS q ON q.name = s.queue
        WHERE q.id = ?1)
"""

# Looks at the first of each rank, as the index has them.
# parameters  1 queue
# returns     data and body of the ready message that was sent first
OLDEST = """
SELECT data, body FROM messages WHERE id = (
    SELECT min(id) FROM (
        SELECT (SELECT id FROM ready WHERE queue = ?1 AND rank = r.value ORDER BY id LIMIT 1) AS id
        FROM json_each('[0,1,2,3,4,5,6,7,8,9]') AS r
        UNION ALL
        SELECT min(id) FROM messages WHERE id > (SELECT sorted FROM state) AND queue = ?1
    )
)
"""

# parameters  1 beginning of data
# returns     id, data, body
FIND = "SELECT id, data, body FROM messages WHERE substr(data, 1, length(?1)) = ?1"

# parameters  1 id
# returns     ready, delayed or held, queue, rank, due, consumer_id
PLACE = """
SELECT 'held', h.queue, h.rank, NULL, c.consumer_id
FROM held AS h LEFT JOIN consumers AS c ON c.number = h.consumer WHERE h.id = ?1
UNION ALL
SELECT 'delayed', queue, rank, due, NULL FROM delayed WHERE id = ?1
UNION ALL
SELECT 'ready', queue, rank, NULL, NULL FROM messages
WHERE id = ?1 AND id > (SELECT sorted FROM state) AND queue IS NOT NULL
UNION ALL
SELECT 'ready', queue, rank, NULL, NULL FROM ready
WHERE id = ?1 AND queue IN (SELECT id FROM queues) AND rank IN (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
"""

# parameters  1 queue, 2 rank, 3 id, 4 now
# returns     how many are ready before it
AHEAD = """
SELECT (SELECT count(*) FROM ready WHERE queue = ?1 AND (rank, id) < (?2, ?3))
     + (SELECT count(*) FROM messages
        WHERE id > (SELECT sorted FROM state) AND queue = ?1 AND (rank, id) < (?2, ?3))
     + (SELECT count(*) FROM delayed WHERE queue = ?1 AND due <= ?4 AND (rank, id) < (?2, ?3))
"""

# parameters  1 names
# returns     id
QUEUE_IDS = "SELECT id FROM queues WHERE name IN (SELECT value FROM json_each(?1))"

# Pairs of statements: delete the messages that wait in a queue, and the rows that say so. The inbox
# is sorted before.
# parameters  1 queue
PURGE = (
    (
        "DELETE FROM messages WHERE id IN (SELECT id FROM ready WHERE queue = ?1)",
        "DELETE FROM ready WHERE queue = ?1",
    ),
    (
        "DELETE FROM messages WHERE id IN (SELECT id FROM delayed WHERE queue = ?1)",
        "DELETE FROM delayed WHERE queue = ?1",
    ),
)

# --- results ------------------------------------------------------------------------------------

# parameters  1 prefixes
# returns     seq, task_id, state
STORED = """
SELECT seq, task_id, state FROM results WHERE prefix IN (SELECT value FROM json_each(?1))
"""

# parameters  1 seqs
DELETE_RESULTS = "DELETE FROM results WHERE seq IN (SELECT value FROM json_each(?1))"

# parameters  1 prefixes, 2 now
# returns     seq, task_id, meta
GET_RESULTS = """
SELECT seq, task_id, meta FROM results
WHERE prefix IN (SELECT value FROM json_each(?1)) AND (expires_at IS NULL OR expires_at > ?2)
"""

# returns     the highest seq
NEWEST_RESULT = "SELECT max(seq) FROM results"

# parameters  1 seq
# returns     seq, task_id of what was stored since
RESULTS_SINCE = "SELECT seq, task_id FROM results WHERE seq > ?1 ORDER BY seq"

# parameters  1 seqs
# returns     seq, task_id, meta
METAS = "SELECT seq, task_id, meta FROM results WHERE seq IN (SELECT value FROM json_each(?1))"

# --- joins --------------------------------------------------------------------------------------

# Complete at once, if all have arrived before.
# parameters  1 id, 2 size, 3 context, 4 expires_at, 5 now
OPEN_JOIN = """
INSERT INTO joins (id, size, context, expires_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (id) DO UPDATE SET
    size = ?2,
    complete_at = CASE WHEN arrived >= ?2 + added THEN ?5 END
WHERE size IS NULL
"""

# parameters  1 id, 2 members
ENLARGE_JOIN = "UPDATE joins SET added = added + ?2 WHERE id = ?1 AND complete_at IS NULL"

# Makes the row of a join of which nobody has said yet how many members it has.
# parameters  1 id, 2 context, 3 expires_at
MEET_JOIN = """
INSERT INTO joins (id, context, expires_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING
"""

# parameters  1 id
# returns     number, whether it is complete
JOIN = "SELECT number, complete_at IS NOT NULL FROM joins WHERE id = ?1"

# parameters  1 number, 2 member, 3 place, 4 part
ARRIVE = "INSERT INTO arrivals VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"

# parameters  1 number, 2 how many are new, 3 context (empty = it stays), 4 now
# returns     complete_at
COUNT_IN = """
UPDATE joins SET
    arrived = arrived + ?2,
    context = CASE WHEN ?3 = x'' THEN context ELSE ?3 END,
    complete_at = CASE WHEN size IS NOT NULL AND arrived + ?2 >= size + added THEN ?4 END
WHERE number = ?1
RETURNING complete_at
"""

# parameters  1 id
# returns     number, context of a join that is complete and not closed
COMPLETE_JOIN = """
SELECT number, context FROM joins WHERE id = ?1 AND complete_at IS NOT NULL AND NOT closed
"""

# parameters  1 number
# returns     part
PARTS = "SELECT part FROM arrivals WHERE joined = ?1 ORDER BY place, member"

# parameters  1 complete before, 2 limit
# returns     id
UNCLOSED_JOINS = """
SELECT id FROM joins WHERE complete_at IS NOT NULL AND NOT closed AND complete_at <= ?1
ORDER BY complete_at LIMIT ?2
"""

# parameters  1 number
CLOSE_JOIN = "UPDATE joins SET closed = 1, context = '' WHERE number = ?1"
DELETE_ARRIVALS = "DELETE FROM arrivals WHERE joined = ?1"

# --- ledger -------------------------------------------------------------------------------------

# parameters  1 task_id, 2 until, 3 who asked, 4 now, 5 signal
REVOKE = "INSERT OR REPLACE INTO revoked VALUES (?1, ?2, ?3, ?4, ?5)"

# parameters  1 task ids, 2 now
# returns     task_id, who asked, when, signal
REVOKED = """
SELECT task_id, asked_by, asked_at, signal FROM revoked
WHERE task_id IN (SELECT value FROM json_each(?1)) AND expires_at > ?2
"""

# Keeps a message of another server.
# parameters  1 data, 2 body, 3 queue's name, 4 reason, 5 now, 6 crashes
BURY_FOREIGN = """
INSERT INTO dead (data, body, queue, reason, died_at, crashes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
"""

# Remembers a dead consumer.
# parameters  1 consumer_id, 2 until
# returns     nothing, if it was known
CHARGED = "INSERT OR IGNORE INTO charged VALUES (?1, ?2) RETURNING 1"

# parameters  1 message id, 2 crashes to add, 3 suspect, 4 verdict ("" = an earlier one stays),
#             5 until
CHARGE_FOREIGN = """
INSERT INTO charges VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (message_id) DO UPDATE SET
    crashes = crashes + excluded.crashes,
    suspect = excluded.suspect,
    verdict = coalesce(nullif(excluded.verdict, ''), verdict),
    expires_at = excluded.expires_at
"""

# parameters  1 message ids, 2 now
# returns     message id, crashes, suspect, verdict
CHARGES = """
SELECT message_id, crashes, suspect, verdict FROM charges
WHERE message_id IN (SELECT value FROM json_each(?1)) AND expires_at > ?2
"""

# parameters  1 message ids
ABSOLVE = "DELETE FROM charges WHERE message_id IN (SELECT value FROM json_each(?1))"

# Takes or renews a lease; a row stays when it is released, so that its token goes on growing.
# parameters  1 name, 2 holder, 3 now, 4 until
# returns     token, if the lease is ours now
ACQUIRE = """
INSERT INTO leases VALUES (?1, ?2, 1, ?4)
ON CONFLICT (name) DO UPDATE SET
    token = token + (holder <> excluded.holder),
    holder = excluded.holder,
    expires_at = excluded.expires_at
WHERE holder = excluded.holder OR expires_at <= ?3
RETURNING token
"""

# --- timetables ---------------------------------------------------------------------------------

# parameters  1 timetable
# returns     name, entry
ENTRIES = "SELECT name, entry FROM entries WHERE timetable = ?1"

# parameters  1 timetable, 2 name
# returns     entry
ENTRY = "SELECT entry FROM entries WHERE timetable = ?1 AND name = ?2"

# parameters  1 timetable, 2 name, 3 entry
PUT_ENTRY = "INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3)"

# parameters  1 timetable, 2 name
DELETE_ENTRY = "DELETE FROM entries WHERE timetable = ?1 AND name = ?2"
DELETE_PROGRESS = "DELETE FROM progress WHERE timetable = ?1 AND name = ?2"

# parameters  1 timetable
REVISE = """
INSERT INTO timetables VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET revision = revision + 1
"""
# returns     revision
REVISION = "SELECT revision FROM timetables WHERE name = ?1"

# parameters  1 timetable, 2 names, or nothing: all
# returns     name, due time, record
PROGRESS = """
SELECT name, due_at, record FROM progress
WHERE timetable = ?1 AND (?2 IS NULL OR name IN (SELECT value FROM json_each(?2)))
"""

# Moves an entry.
# parameters  1 timetable, 2 name, 3 due time, 4 record
MOVE = "INSERT OR REPLACE INTO progress VALUES (?1, ?2, ?3, ?4)"

# parameters  1 name of the lease
# returns     token
NEWEST_TOKEN = "SELECT token FROM leases WHERE name = ?1"  # noqa: S105 -- no secret

# parameters  1 name of the lease, 2 now
# returns     holder
LEASE_HOLDER = "SELECT holder FROM leases WHERE name = ?1 AND expires_at > ?2"

# --- upkeep -------------------------------------------------------------------------------------

# parameters  1 seq, 2 limit, 3 now
# returns     seq, whether it has expired
RESULTS_BEHIND = """
SELECT seq, expires_at IS NOT NULL AND expires_at <= ?3 FROM results
WHERE seq > ?1 ORDER BY seq LIMIT ?2
"""

# parameters  1 now
DELETE_REVOKED = "DELETE FROM revoked WHERE expires_at <= ?1"
DELETE_NODES = "DELETE FROM nodes WHERE expires_at <= ?1"
DELETE_CHARGES = "DELETE FROM charges WHERE expires_at <= ?1"
DELETE_CHARGED = "DELETE FROM charged WHERE expires_at <= ?1"

# Some joins that have expired, with what arrived; the second statement follows the first.
# parameters  1 now
DELETE_JOINS = (
    """
    DELETE FROM arrivals WHERE joined IN (
        SELECT number FROM joins WHERE expires_at <= ?1 ORDER BY number LIMIT 10
    )
    """,
    """
    DELETE FROM joins WHERE number IN (
        SELECT number FROM joins WHERE expires_at <= ?1 ORDER BY number LIMIT 10
    )
    """,
)

# parameters  1 died before, 2 limit
DELETE_DEAD = """
DELETE FROM dead WHERE key IN (SELECT key FROM dead ORDER BY key LIMIT ?2) AND died_at <= ?1
"""

# Queues with a limited life that nobody consumes.
# returns  id, used_at, options
UNUSED_QUEUES = """
SELECT id, used_at, json_extract(options, '$.expires') FROM queues AS q
WHERE json_extract(options, '$.expires') IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM subscriptions AS s WHERE s.queue = q.name)
"""
