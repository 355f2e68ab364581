"""Publishing: declare what must exist, send with a deadline, try again while the broker is away.

``publish`` returns when the server has stored the messages, or raises within its deadline. A broken
connection leaves open whether it stored them; they are then sent again, so a message may arrive
twice, never not at all (a task's id is the same both times). What is waited for is bounded by one
deadline for the whole call, connecting and every attempt included.

Owners: a ``Publisher`` belongs to its application and is used by all threads of the process without
a lock. Its only state is the set of topologies already declared: adding to it is atomic, and
declaring one twice changes nothing. A forked child inherits it, which is right, because what was
declared exists on the server; the connection is the server's business, which opens a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from umbel import telemetry
from umbel.backoff import exponential
from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import (
    ConnectionLost,
    MessageTooLarge,
    PublishError,
    TimeoutError,
    Unroutable,
)
from umbel.message import Message
from umbel.routing import Route
from umbel.servers.seams import Transport

#: Seconds of the first pause between attempts, and of the longest.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
#: What is said of messages after a connection broke: an attempt may have stored them.
_UNKNOWN = "not known to be stored"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast sending is tried again, under the deadline in any case."""

    #: None = until the deadline.
    max_retries: int | None = None
    #: Seconds; None = exponential back-off with jitter.
    interval_start: float | None = None
    interval_step: float = 0.2
    interval_max: float = 0.2

    @classmethod
    def from_mapping(cls, policy: Mapping[str, Any] | None) -> RetryPolicy:
        """Read Celery's ``retry_policy``; empty = until the deadline."""
        if not policy:
            return UNTIL_DEADLINE
        return cls(
            max_retries=policy.get("max_retries", 3),
            interval_start=policy.get("interval_start", 0.0) or 0.0,
            interval_step=policy.get("interval_step", 0.2) or 0.0,
            interval_max=policy.get("interval_max", 0.2) or 0.0,
        )

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait before the next attempt; the first one counts as 0."""
        if self.interval_start is None:
            return exponential(attempt, _FIRST_PAUSE, maximum=_LONGEST_PAUSE)
        return min(self.interval_start + attempt * self.interval_step, self.interval_max)


UNTIL_DEADLINE = RetryPolicy()
ONCE = RetryPolicy(max_retries=0)


class Publisher:
    """Sends messages through one transport. Any thread."""

    __slots__ = ("_clock", "_declared", "_largest", "_policy", "_timeout", "_transport")

    def __init__(
        self,
        transport: Transport,
        *,
        timeout: float = 5.0,
        largest: int | None = None,
        policy: RetryPolicy = UNTIL_DEADLINE,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._largest = largest
        self._policy = policy
        self._clock = clock
        self._declared: set[tuple[str, ...]] = set()

    def publish(
        self,
        messages: Sequence[Message],
        routes: Sequence[Route] = (),
        *,
        deadline_in: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        """Store all messages, in order; on return they are stored.

        What ``routes`` lead through is declared first, each once a process.
        Raises MessageTooLarge before anything is sent, Unroutable or PublishError naming the
        messages that were not stored (the others are), and PublishError when the broker could not
        be reached in time.
        """
        largest = self._largest
        if largest is not None:
            for message in messages:
                if len(message.body) > largest:
                    raise _too_large(message, largest)
        timeout = self._timeout if deadline_in is None else deadline_in
        deadline = self._clock.monotonic() + timeout
        try:
            self._attempt(messages, routes, deadline)
        except ConnectionLost as error:
            self._try_again(messages, routes, error, deadline, policy or self._policy)
        except TimeoutError as error:
            # Its text says whether anything can have been written; no earlier attempt did.
            raise _unsent(messages, f"not confirmed within {timeout:g} s", str(error)) from error

    def declare(self, route: Route) -> None:
        """Make sure that what a route leads through exists; the server is asked once a process."""
        if route.needs not in self._declared:
            self.publish((), (route,))

    def _attempt(
        self, messages: Sequence[Message], routes: Sequence[Route], deadline: float
    ) -> None:
        for route in routes:
            if route.needs not in self._declared:
                self._declare(route)
        if not messages:
            return
        try:
            self._transport.publish(messages, deadline=deadline)
        except Unroutable as error:
            if not routes:
                raise
            # Somebody deleted a queue, or the server forgot it: declare again, then try once more.
            for route in routes:
                self._declare(route)
            refused = {task_id for task_id, _ in error.refused}
            again = [message for message in messages if message.id in refused]
            self._transport.publish(again, deadline=deadline)

    def _declare(self, route: Route) -> None:
        if route.topology.exchanges or route.topology.queues:
            self._transport.declare(route.topology)
        self._declared.add(route.needs)

    def _try_again(
        self,
        messages: Sequence[Message],
        routes: Sequence[Route],
        error: ConnectionLost,
        deadline: float,
        policy: RetryPolicy,
    ) -> None:
        """Try until it works, the policy says no more, or the deadline comes."""
        attempt = 0
        while policy.max_retries is None or attempt < policy.max_retries:
            pause = policy.pause(attempt)
            if self._clock.monotonic() + pause >= deadline:
                break
            telemetry.emit("publish.retried", count=len(messages), attempt=attempt, error=error)
            self._clock.sleep(pause)
            try:
                self._attempt(messages, routes, deadline)
            except ConnectionLost as again:
                error, attempt = again, attempt + 1
            except TimeoutError as late:
                raise _unsent(messages, _UNKNOWN, f"{late} (before that: {error})") from late
            else:
                return
        reason = f"no connection (attempts: {attempt + 1}): {error}"
        raise _unsent(messages, _UNKNOWN, reason) from error


def _unsent(messages: Sequence[Message], what: str, reason: str) -> PublishError:
    return PublishError(what, [(message.id, reason) for message in messages])


def _too_large(message: Message, largest: int) -> MessageTooLarge:
    reason = (
        f"its body has {len(message.body)} bytes, task_max_message_size allows {largest}; "
        "send a reference to the data instead, or raise the limit if the broker takes it"
    )
    return MessageTooLarge("nothing was sent", [(message.id, reason)])
