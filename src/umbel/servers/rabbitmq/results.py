"""``rpc://``: a result is one message to its caller, who alone can have it.

Messages are Celery's, so that its clients read our results and ours read its workers': exchange
"", routing key = ``reply_to``, correlation_id = the task's id, the meta as body, transient. Nobody
but the caller's process can ask for a result; it can do so as often as it likes while it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    ImproperlyConfigured,
    TimeoutError,
    TransportError,
)
from umbel.message import ResultRecord
from umbel.servers.rabbitmq.channels import Channels, Hub
from umbel.servers.rabbitmq.confirms import Flight, Outgoing
from umbel.servers.rabbitmq.connection import Raw
from umbel.servers.rabbitmq.link import Turn
from umbel.servers.rabbitmq.mailbox import Follower
from umbel.servers.rabbitmq.properties import EXPIRES, STATE, pack_fields
from umbel.servers.rabbitmq.publishing import TIMEOUT, Publishing
from umbel.wire.names import OWN

_TRANSIENT = 1

_monotonic = SYSTEM_CLOCK.monotonic


class RabbitResults:
    """A ``ResultStore``. Thread-safe; a forked child has an address of its own."""

    caveat = (
        "results of rpc:// come to the process that sent the task, and to no other: name a "
        "result_backend that keeps them, if others shall see them"
    )
    shared = False

    def __init__(self, hub: Hub, publishing: Publishing) -> None:
        self._hub = hub
        self._publishing = publishing

    @property
    def reply_to(self) -> str:
        """The queue of this process; it exists when this returns, if the server can be reached."""
        here = self._hub.here()
        if not here.heard:
            try:
                self._ask(lambda channels, deadline: channels.hear(here.replies, deadline))
            except TransportError:
                # Publishing with this address makes it exist first, or fails and says why.
                return here.replies
            here.heard = True
        return here.replies

    def put(self, records: Sequence[ResultRecord]) -> None:
        now = self._hub.clock.now()
        flight = Flight([_outgoing(record, now) for record in records if record.reply_to])
        if not flight.outgoing:
            return
        own = self._hub.here().replies

        def begin(channels: Channels, deadline: float) -> None:
            if any(record.reply_to == own for record in records):
                channels.hear(own, deadline)
            channels.confirms.send(flight)

        self._publishing.order(Turn(begin, lambda: flight.landed))
        flight.check()

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        if not task_ids:
            return {}
        here = self._hub.here()
        self._ask(lambda channels, deadline: channels.catch_up(here.replies, deadline))
        return here.mailbox.get(task_ids)

    def watch(self) -> RabbitWatch:
        return RabbitWatch(self._hub)

    def forget(self, task_ids: Sequence[str]) -> None:
        self._hub.here().mailbox.forget(task_ids)

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:  # noqa: ARG002 -- there is no place for it
        raise _no_place_for(group_id)

    def saved_group(self, group_id: str) -> bytes | None:
        raise _no_place_for(group_id)

    def forget_group(self, group_id: str) -> None:
        raise _no_place_for(group_id)

    def close(self) -> None:
        here = self._hub.here()
        here.heard = False
        here.link.close()

    def retire(self) -> None:
        """Delete this process's address: whoever sends a result to it sends it to nobody."""
        here = self._hub.here()
        if here.heard:
            here.heard = False
            turn = Turn[Channels](
                lambda channels, deadline: channels.control.delete(here.replies, deadline),
                connects=False,
            )
            with suppress(TransportError, TimeoutError):  # it expires by itself
                here.link.run(turn, _monotonic() + TIMEOUT)

    def _ask(self, question: Callable[[Channels, float], object]) -> None:
        self._publishing.order(Turn(question))


class RabbitWatch:
    """A ``Watch`` on this process's replies. ``receive`` and ``close`` belong to its owner."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._here = hub.here()
        self._follower: Follower = self._here.mailbox.follow()

    def add(self, task_ids: Iterable[str]) -> None:
        self._here.mailbox.add(self._follower, task_ids)
        if self._follower.news:
            self._here.link.wake()

    def discard(self, task_ids: Iterable[str]) -> None:
        self._here.mailbox.discard(self._follower, task_ids)

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        follower, here = self._follower, self._here
        turn = Turn[Channels](
            lambda channels, deadline: channels.hear(here.replies, deadline),
            lambda: follower.news or follower.woken,
            grace=TIMEOUT,
        )
        here.link.run(turn, _monotonic() + timeout)
        follower.woken = False
        return here.mailbox.take(follower)

    def wake(self) -> None:
        self._follower.woken = True
        self._here.link.wake()

    def close(self) -> None:
        self._here.mailbox.leave(self._follower)


def _outgoing(record: ResultRecord, now: float) -> Outgoing:
    own: dict[str, Any] = {STATE: record.state}
    expiration = None
    if record.expires_in is not None:
        own[EXPIRES] = now + record.expires_in
        expiration = str(max(int(record.expires_in * 1000), 0))
    fields = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {OWN: own},
        "delivery_mode": _TRANSIENT,
        "priority": 0,
        "correlation_id": record.task_id,
        "expiration": expiration,
    }
    raw = Raw(pack_fields(fields))
    return Outgoing(record.task_id, "", record.reply_to, record.meta, raw, mandatory=False)


def _no_place_for(group_id: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"rpc:// sends results and keeps nothing, so there is no saved group {group_id}: "
        "name a result_backend that keeps results"
    )
