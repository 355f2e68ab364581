"""Every key that umbel reads or writes on a Redis server.

Celery's and kombu's own keys, whose layout is fixed by them (``wire-protocol`` 2.2, 2.3, 4.1):

    <queue>                       list    envelopes, pushed at the head, popped at the tail
    <queue> SEP <step>            list    the same for the priorities from this step on
    _kombu.binding.<exchange>     set     key SEP regular expression SEP queue
    _kombu.binding_permanent.<exchange>   set    those of queues that do not expire
    _kombu.binding_deadlines      zset    exchange -> milliseconds from when its table may be swept
    /<db>.<exchange>[/<key>]      channel of a fanout exchange
    unacked                       hash    tag -> [envelope, exchange, key]: what their workers hold
    unacked_index                 zset    tag -> seconds of their clock since when
    celery-task-meta-<id>         string  a result, and the channel on which it is published

Ours, all under ``umbel:``; no program of Celery's looks at them. A *list* stands for the full key
of one of the lists above; moments are microseconds of the server's clock.

    umbel:schema                  hash    written, readable_from: versions of this layout
    umbel:exchanges               hash    name -> type
    umbel:queues                  hash    name -> its properties as JSON
    umbel:unused                  zset    queues that end when nobody consumes them -> since when
    umbel:armed:<queue>           zset    consumers that wait for it and are told of changes -> when
    umbel:idle:<queue>            zset    consumers that wait for it and sleep -> since when
    umbel:wake:<id>               channel on which one that sleeps is woken
    umbel:delayed:<list>          zset    envelope -> when it is due
    umbel:leases                  zset    consumer id -> when its lease ends
    umbel:consumer:<id>           hash    number: how many messages it was ever given, queues (JSON)
    umbel:served:<queue>          set     ids of its consumers; alive are those with a lease
    umbel:held:<id>               hash    "<number>:<list>" -> envelope; the hold, and its fence
    umbel:marks                   hash    SHA1 of an envelope -> crashes losses suspect verdict
    umbel:dead                    stream  dead letters: envelope, list, reason, crashes
    umbel:charge:<id>             hash    crashes, suspect, verdict of a message of another server
    umbel:charged:<id>            string  marks a dead consumer as counted
    umbel:revoked                 zset    task id -> when the revocation ends
    umbel:revocations             hash    task id -> who revoked it, when, signal as JSON
    umbel:revision                string  how often something was revoked
    umbel:nodes                   hash    node -> record as JSON
    umbel:node-ends               zset    node -> when its record ends
    umbel:lease:<name>            hash    holder, token, ends
    umbel:entries:<name>          hash    entries of a timetable: name -> what it is
    umbel:entries-revision:<name> string  how often they were changed
    umbel:progress:<name>         hash    entry -> the last due time (seconds) and a record
    umbel:joins                   zset    complete join -> since when, until its body is sent
    umbel:joins-waiting           zset    join that waits for members -> when it was looked at
    umbel:join:<id>               string  what its body is made of; with ":full" since when it seems
                                          to be complete, and nobody sends its body
    umbel:success:<id>            string  marks a final result whose bytes do not say that they are
"""

from __future__ import annotations

import bisect

from umbel.servers.redis.options import Options
from umbel.wire import names

#: The layout above. A version that older ones cannot share a server with raises both.
SCHEMA = 1
READABLE_FROM = 1


class Keys:
    """The names of keys under one configuration. Never changed after it was made."""

    __slots__ = (
        "_channels",
        "_keyed_channels",
        "_suffix_of",
        "armed",
        "binding_deadlines",
        "bindings",
        "charge",
        "charged",
        "complete_joins",
        "consumer",
        "consumers",
        "dead",
        "delayed",
        "entries",
        "entries_revision",
        "exchanges",
        "groups",
        "held",
        "idle",
        "joins",
        "lease",
        "leases",
        "marks",
        "node_ends",
        "nodes",
        "permanent_bindings",
        "prefix",
        "progress",
        "queues",
        "receive_order",
        "results",
        "revision",
        "revocations",
        "revoked",
        "schema",
        "separator",
        "served",
        "successes",
        "suffixes",
        "unacked",
        "unacked_since",
        "unused",
        "waiting_joins",
        "wake",
    )

    def __init__(self, options: Options) -> None:
        self.prefix = options.global_keyprefix
        self.separator = options.sep
        ours = f"{self.prefix}umbel:"
        self.schema = f"{ours}schema"
        self.exchanges = f"{ours}exchanges"
        self.queues = f"{ours}queues"
        self.unused = f"{ours}unused"
        self.leases = f"{ours}leases"
        self.marks = f"{ours}marks"
        self.dead = f"{ours}dead"
        self.revoked = f"{ours}revoked"
        self.revocations = f"{ours}revocations"
        self.revision = f"{ours}revision"
        self.nodes = f"{ours}nodes"
        self.node_ends = f"{ours}node-ends"
        # Beginnings of keys.
        self.delayed = f"{ours}delayed:"
        self.consumer = f"{ours}consumer:"
        self.held = f"{ours}held:"
        self.served = f"{ours}served:"
        self.armed = f"{ours}armed:"
        self.idle = f"{ours}idle:"
        self.wake = f"{ours}wake:"
        #: Beginnings of all keys that concern a consumer.
        self.consumers = (
            *(self.held, self.consumer, self.served),
            *(self.armed, self.idle, self.wake),
        )
        self.lease = f"{ours}lease:"
        self.entries = f"{ours}entries:"
        self.entries_revision = f"{ours}entries-revision:"
        self.progress = f"{ours}progress:"
        self.complete_joins = f"{ours}joins"
        self.waiting_joins = f"{ours}joins-waiting"
        self.joins = f"{ours}join:"
        self.charge = f"{ours}charge:"
        self.charged = f"{ours}charged:"
        self.bindings = f"{self.prefix}{names.BINDINGS}"
        self.binding_deadlines = f"{self.prefix}{names.BINDING_DEADLINES}"
        self._channels = f"{self.prefix}{options.fanout_prefix}"
        self._keyed_channels = options.fanout_patterns
        self.permanent_bindings = f"{self.prefix}{names.PERMANENT_BINDINGS}"
        self.unacked = f"{self.prefix}{options.unacked_key}"
        self.unacked_since = f"{self.prefix}{options.unacked_since_key}"
        self.results = f"{options.result_keyprefix}{names.RESULT}"
        self.groups = f"{options.result_keyprefix}{names.GROUP}"
        self.successes = f"{options.result_keyprefix}umbel:success:"
        # Buckets: the end of a list's key by priority, and the order in which lists are read.
        steps = options.priority_steps
        self.suffixes = tuple(f"{options.sep}{step}" if step else "" for step in steps)
        self._suffix_of = tuple(self.suffixes[bisect.bisect(steps, p) - 1] for p in range(10))
        self.receive_order = self.suffixes[:: -1 if options.highest_priority else 1]

    def lists(self, queue: str) -> list[str]:
        """Return the keys of a queue's lists, first to be received first."""
        return [f"{self.prefix}{queue}{suffix}" for suffix in self.receive_order]

    def suffix(self, priority: int) -> str:
        """Return the end of the key of the list for this priority."""
        return self._suffix_of[min(max(priority, 0), 9)]

    def channel(self, exchange: str, routing_key: str) -> str:
        """Return the channel of a fanout exchange."""
        keyed = f"/{routing_key}" if routing_key and self._keyed_channels else ""
        return f"{self._channels}{exchange}{keyed}"

    def queue(self, key: str) -> str:
        """Return the name of the queue that a list belongs to."""
        name = key.removeprefix(self.prefix)
        for suffix in self.suffixes[1:]:
            if name.endswith(suffix):
                return name[: -len(suffix)]
        return name
