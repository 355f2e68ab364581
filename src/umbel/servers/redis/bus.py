"""Remote control on Redis: kombu's fanout channels, and mailboxes for answers in its layout.

A broadcast is a PUBLISH; who is not subscribed misses it. A mailbox is a list, named in the binding
table of its exchange; kombu's programs look it up there, and so do we. It belongs to one caller,
who deletes it. If the caller dies, the list expires, and kombu sweeps the table when no mailbox was
refreshed for an hour: so a mailbox raises the table's deadline as kombu's own do.
"""

from __future__ import annotations

from typing import Final

import hiredis

from umbel.exceptions import TransportError
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.redis.connection import Connections, Link, Script, Waker
from umbel.servers.redis.connection import pack as pack_words
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.options import Options
from umbel.wire.envelope import pack, unpack

#: Seconds after which an answer that nobody fetched is deleted.
ANSWER_EXPIRES = 60
#: Answers fetched at once.
MOST_ANSWERS = 1000
#: Seconds for which a binding table with mailboxes stays, as kombu has it.
TABLE_STAYS = 3600

#: Put an answer into its mailbox.
#:   KEYS  1 bindings of the exchange
#:   ARGV  1 key prefix   2 separator   3 routing key   4 envelope   5 seconds to keep it
_POST: Final = Script.of("""
local head = ARGV[3] .. ARGV[2]
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local second = string.sub(member, 1, #head) == head and
    string.find(member, ARGV[2], #head + 1, true)
  if second then
    local list = ARGV[1] .. string.sub(member, second + #ARGV[2])
    redis.call('LPUSH', list, ARGV[4])
    if redis.call('TTL', list) < 0 then redis.call('EXPIRE', list, ARGV[5]) end
  end
end
""")

#: Bind a mailbox, and keep its table.
#:   KEYS  1 bindings of the exchange   2 deadlines
#:   ARGV  1 member   2 exchange   3 seconds to keep the table
_BIND: Final = Script.of("""
redis.call('SADD', KEYS[1], ARGV[1])
local now = redis.call('TIME')
local until_ms = (now[1] + ARGV[3]) * 1000
redis.call('ZADD', KEYS[2], 'GT', string.format('%.0f', until_ms), ARGV[2])
""")


class RedisBus:
    """Channels and mailboxes. Any thread."""

    #: What Celery's programs broadcast goes over channels only.
    passes_queues_by = True

    def __init__(self, connections: Connections, keys: Keys, options: Options) -> None:
        self._connections = connections
        self._keys = keys
        self._options = options

    def broadcast(self, message: Message) -> None:
        channel = self._keys.channel(message.exchange, message.routing_key)
        self._connections.call("PUBLISH", channel, pack(message, delivery_tag=new_id()))

    def post(self, message: Message) -> None:
        keys = self._keys
        envelope = pack(message, delivery_tag=new_id())
        arguments = (keys.prefix, keys.separator, message.routing_key, envelope, ANSWER_EXPIRES)
        self._connections.run(_POST, [keys.bindings + message.exchange], [arguments])

    def listen(self, exchange: str) -> Subscription:
        return Subscription(self._connections, self._keys.channel(exchange, ""))

    def mailbox(self, exchange: str, key: str) -> RedisMailbox:
        return RedisMailbox(self._connections, self._keys, exchange, key)


class Subscription:
    """Hears a channel. One thread owns it, except ``wake``."""

    def __init__(self, connections: Connections, channel: str) -> None:
        self._connections = connections
        self._channel = channel
        self._waker = Waker()
        self._link: Link | None = None
        self._connected()

    def receive(self, timeout: float) -> list[Message]:
        link = self._connected()
        try:
            found = _heard(link)
            if not found and not link.wait(timeout, self._waker):
                found = _heard(link)
        except BaseException:  # also what a signal raises in the middle of a message
            self._drop_link()
            raise
        return found

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        self._drop_link()
        self._waker.close()

    def _connected(self) -> Link:
        if self._link is None:
            link = self._connections.open()
            # The answers to SUBSCRIBE are pushes; that of PING comes behind them.
            commands = pack_words("SUBSCRIBE", self._channel)
            commands += pack_words("PSUBSCRIBE", f"{self._channel}/*") + pack_words("PING")
            link.exchange(commands, 1, deadline=None)
            self._link = link
        return self._link

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class RedisMailbox:
    """A list for one caller's answers. One thread owns it."""

    def __init__(self, connections: Connections, keys: Keys, exchange: str, key: str) -> None:
        self._connections = connections
        queue = f"{key}.{exchange}"
        self._list = keys.prefix + queue
        self._bindings = keys.bindings + exchange
        self._member = keys.separator.join((key, "", queue))
        arguments = (self._member, exchange, TABLE_STAYS)
        connections.run(_BIND, [self._bindings, keys.binding_deadlines], [arguments])
        self._link = connections.open()

    def receive(self, timeout: float) -> list[Message]:
        # From the list to itself: it waits and takes nothing, so no answer is lost on the way.
        wait = f"{max(timeout, 0.001):.3f}"
        self._link.call("BLMOVE", self._list, self._list, "RIGHT", "RIGHT", wait)
        envelopes = self._link.call("RPOP", self._list, MOST_ANSWERS) or []
        return [message for message, problem in map(unpack, envelopes) if problem is None]

    def close(self) -> None:
        self._link.close()
        try:
            self._connections.call("SREM", self._bindings, self._member)
            self._connections.call("DEL", self._list)
        except TransportError:
            return  # they expire


def _heard(link: Link) -> list[Message]:
    messages = []
    for item in link.received():
        if isinstance(item, hiredis.PushNotification) and item[0] in (b"message", b"pmessage"):
            message, problem = unpack(item[-1])
            if problem is None:
                messages.append(message)
    return messages
