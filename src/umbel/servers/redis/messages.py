"""How messages and results are handed to the scripts: as runs of arguments."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace

from umbel.clock import Clock
from umbel.exceptions import EncodeError, MessageTooLarge, PublishError, Unroutable
from umbel.message import Message, ResultRecord
from umbel.servers.redis.connection import Word
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.options import Options
from umbel.states import SUCCESS
from umbel.wire.envelope import pack

#: What the scripts take: see the head of ``pieces.py``.
Arguments = list[Word]
#: Stands before the reason where a message's delay would, if it cannot be stored.
REFUSED = "!"


class Packer:
    """Turns messages and results into arguments. Never changed; any thread."""

    __slots__ = ("_clock", "_count", "_keys", "_largest", "_salt", "keys", "start")

    def __init__(self, options: Options, keys: Keys) -> None:
        self._clock: Clock = options.clock
        self._keys = keys
        self._largest = options.max_message_size
        self._salt, self._count = os.urandom(8).hex(), itertools.count()
        #: The keys and first arguments of every script that stores messages.
        self.keys = (keys.exchanges, keys.queues, keys.leases, keys.dead)
        served = "" if options.park_unserved else keys.served
        self.start = (keys.prefix, keys.separator, keys.bindings, keys.delayed, served)

    def message(self, message: Message) -> tuple[str, str, str, str, bytes]:
        """Return a message's five arguments."""
        try:
            envelope = pack(message, delivery_tag=self._tag())
        except EncodeError as error:
            return self._refused(message, str(error))
        if len(envelope) > self._largest:
            reason = f"{len(envelope)} bytes, and at most {self._largest} are allowed"
            return self._refused(message, reason)
        suffix = self._keys.suffix(message.priority)
        delay = "0" if not message.not_before else self._delay(message.not_before)
        return message.exchange, message.routing_key, suffix, delay, envelope

    def _tag(self) -> str:
        """Return what no other message has, also if we are forked; an id takes ten times that."""
        return f"{self._salt}-{os.getpid():x}-{next(self._count):x}"

    def _refused(self, message: Message, reason: str) -> tuple[str, str, str, str, bytes]:
        """Return the arguments of a message that cannot be stored: what is left of it, and why."""
        rest = replace(message, body=b"", headers={}, properties=None)
        envelope = pack(rest, delivery_tag=self._tag())
        suffix = self._keys.suffix(message.priority)
        return message.exchange, message.routing_key, suffix, REFUSED + reason, envelope

    def refusal(self, refused: Sequence[tuple[Message, str]]) -> PublishError:
        """Return the error of messages that were not stored, each with the reason."""
        kinds = {self._kind_of(message) for message, _ in refused}
        kind = kinds.pop() if len(kinds) == 1 else PublishError
        return kind("not sent", [(message.id, reason) for message, reason in refused])

    def _kind_of(self, message: Message) -> type[PublishError]:
        try:
            size = len(pack(message, delivery_tag=self._tag()))
        except EncodeError:
            return PublishError
        return MessageTooLarge if size > self._largest else Unroutable

    def _delay(self, not_before: float) -> str:
        # Both times are this machine's: so a countdown is right on a server whose clock is not.
        return str(max(0, int((not_before - self._clock.now()) * 1_000_000)))


def result_arguments(record: ResultRecord) -> tuple[str, str, str, bytes]:
    """Return a result's four arguments."""
    lasts = record.expires_in
    milliseconds = "" if lasts is None else str(max(1, int(lasts * 1000)))
    return record.task_id, milliseconds, "1" if record.state == SUCCESS else "0", record.meta
