"""One delivery, from its bytes to its effects. Pure of threads and servers: any thread may call it.

    refuse(delivery)   verdicts that need no run: no message, expired, revoked, over budget, …
    run(delivery)      decode, execute, advance

Every message gets a verdict. What cannot be decoded, is of a type not accepted, has no name or no
id, or has killed its worker too often, goes to the dead letters with the reason, and its caller
gets a failure as far as its id can be read. A task that nobody here knows is tried again later, by
whoever receives it then, because in a rolling deploy another worker may know it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from umbel import signals, states
from umbel.bound import BoundTask, call_errbacks, tell_revoked
from umbel.calling import tell_publishing
from umbel.canvas.advance import Policy, Unable, advance, after_join, without_body
from umbel.canvas.joins import released
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    EncodeError,
    InvalidTaskError,
    NotRegistered,
    SerializationError,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from umbel.executor import run_after_hooks
from umbel.message import Delivery, Effects, Ending, Message, Outcome
from umbel.serializers import JSON_TYPE
from umbel.servers.seams import Joined, Refusal
from umbel.values import value
from umbel.wire.names import is_clean
from umbel.wire.task import Request, decode, peek_id
from umbel.worker.board import MAX_ID

logger = logging.getLogger("umbel.worker")

#: Header in which a message carries how often it met workers that do not know its task.
UNKNOWN_HEADER = "umbel_unknown"
#: How many workers may fail to know a task, with back-off between them, before it is dead-lettered.
UNKNOWN_TRIES = 8
#: Losses of its holder's machine that a message may survive.
MAX_LOSSES = 10


@value
class Prepared:
    """A delivery that will run: decoded, with its task."""

    delivery: Delivery
    request: Request
    bound: BoundTask
    id: str
    soft: float | None
    hard: float | None

    def label(self) -> tuple[bytes, bytes]:
        """Return what the board calls it: id and name."""
        # The message's own id, if it has one: deaths are charged by that.
        task_id = self.delivery.message.id or self.id
        return task_id.encode(errors="replace"), self.bound.name.encode(errors="replace")


class Service:
    """What one worker process knows about running tasks. Immutable, shared by its threads."""

    def __init__(
        self,
        tasks: Mapping[str, BoundTask],
        policy: Policy,
        *,
        accept: frozenset[str],
        node: str,
        now: Callable[[], float] = SYSTEM_CLOCK.now,
        nameless: BoundTask | None = None,
    ) -> None:
        self.tasks = tasks
        self._policy = policy
        self._accept = accept
        self._node = node
        #: The wall time, as the broker sees it.
        self.now = now
        #: Stands for tasks that are not known here, or for none.
        self._nameless = nameless or BoundTask("", None, no_run)
        #: Some task is acknowledged before it runs.
        self.acknowledges_early = not all(task.acks_late for task in tasks.values())
        #: Some task is a coroutine task.
        self.runs_coroutines = any(task.is_async for task in tasks.values())

    def refuse(self, delivery: Delivery, now: float) -> Effects | None:
        """Return the effects of a delivery that must not run now, or None if it may run."""
        message = delivery.message
        if delivery.problem is not None:
            signals.task_rejected.send(self._node, message=message, exc=None)
            return Effects(delivery, Ending.DEAD, reason=f"not a message: {delivery.problem}")
        if message.not_before > now:
            # Back to this queue alone: through its exchange it would come to the others once more.
            later = dataclasses.replace(message, exchange="", routing_key=delivery.queue)
            return Effects(delivery, publish=(later,))
        if delivery.verdict:
            return self._end(delivery, _verdict(delivery.verdict))
        if delivery.revoked:
            return self._end(delivery, _revoked("revoked"))
        if message.expires_at is not None and message.expires_at <= now:
            return self._end(delivery, _revoked("expired"))
        return self._over_budget(delivery) if delivery.crashes or delivery.losses else None

    def runs_at_most_once(self, delivery: Delivery) -> bool:
        """Tell whether this wants to be acknowledged before it runs."""
        return not self._bound_for(delivery).acks_late

    def prepare(self, delivery: Delivery) -> Prepared | Effects:
        """Decode a delivery and find its task; effects if it cannot run here."""
        try:
            request = decode(delivery.message, self._accept)
            task_id = _checked_id(request)
        except (SerializationError, InvalidTaskError, UnicodeEncodeError) as error:
            return self._poison(delivery, error)
        bound = self.tasks.get(request.task or "")
        if bound is None:
            return self._unknown(delivery, request)
        request.hostname = self._node
        if signals.task_received.receivers:
            signals.task_received.send(self._node, request=request)
        if delivery.redelivered and request.delivery_info is not None:
            request.delivery_info["redelivered"] = True
        hard, soft = request.timelimit
        return Prepared(
            delivery,
            request,
            bound,
            task_id,
            bound.soft_time_limit if soft is None else soft,
            bound.time_limit if hard is None else hard,
        )

    def effects(self, prepared: Prepared, outcome: Outcome, *, held: bool = True) -> Effects:
        """Return what follows; ``held`` is false if the delivery was acknowledged before it ran."""
        return self._follow(prepared.delivery, prepared.request, outcome, prepared.bound, held=held)

    def progress(self, prepared: Prepared, state: str, meta: Any, *, held: bool) -> Effects:
        """Return the effects of what a task reports; raises EncodeError if they have no form."""
        delivery, request, bound = prepared.delivery, prepared.request, prepared.bound
        try:
            outcome = Outcome(state, meta)
            return advance(delivery, request, outcome, bound, self._policy, held=held)
        except Unable as unable:
            raise unable.outcome.error or unable from unable.__cause__

    def instead(self, refusal: Refusal) -> Effects:
        """Return what follows instead of effects of which a message cannot be stored.

        The task fails. If it had failed anyway, what cannot be sent is left out.
        """
        effects, error = refusal.effects, refusal.error
        delivery = effects.delivery or effects.acknowledged
        reason = f"a follow-up cannot be sent: {error}"
        failed = any(record.state == states.FAILURE for record in effects.results)
        if delivery is None or failed or effects.ending is Ending.DEAD:
            lost = {message_id for message_id, _ in error.refused}
            rest = tuple(each for each in effects.publish if each.id not in lost)
            return dataclasses.replace(
                effects, ending=Ending.DEAD, reason=effects.reason or reason, publish=rest
            )
        outcome = Outcome(states.FAILURE, error=error, dead=reason, done_at=self.now())
        ended = self._end(delivery, outcome, ran=True)
        if effects.delivery is not None:
            return ended
        return dataclasses.replace(ended, delivery=None, acknowledged=delivery)

    def release(self, join_id: str, joined: Joined) -> Effects:
        """Return what follows from a complete join: its body, or the failure of all behind it."""
        return after_join(
            join_id,
            joined,
            self._nameless,
            self._policy,
            here=self._call_errbacks,
            done_at=self.now(),
        )

    def _call_errbacks(self, request: Request, outcome: Outcome) -> list[Any]:
        """Call the errbacks that are called here; return the others."""
        return call_errbacks(request, outcome, self.tasks.get)

    def release_failed(self, join_id: str, joined: Joined, error: Exception) -> Effects:
        """Return what follows if the body's messages cannot be stored."""
        body, request = released(joined)
        outcome = Outcome(states.FAILURE, error=error, done_at=self.now())
        effects = without_body(
            join_id, body, request, outcome, self._nameless, self._policy, here=self._call_errbacks
        )
        return dataclasses.replace(effects, publish=())

    def started(self, prepared: Prepared, pid: int, *, held: bool = True) -> Effects:
        """Return the effects that report the start of a task that tracks it."""
        meta = {"pid": pid, "hostname": self._node}
        return self.effects(prepared, Outcome(states.STARTED, meta), held=held)

    def _over_budget(self, delivery: Delivery) -> Effects | None:
        bound = self._bound_for(delivery)
        if delivery.crashes >= bound.max_deliveries:
            text = f"its worker process died {_times(delivery.crashes)} while running it"
        elif delivery.losses >= MAX_LOSSES:
            text = f"the worker holding it was lost {_times(delivery.losses)}"
        else:
            return None
        return self._end(delivery, Outcome(states.FAILURE, error=WorkerLostError(text), dead=text))

    def _bound_for(self, delivery: Delivery) -> BoundTask:
        name = delivery.message.headers.get("task")
        return self.tasks.get(name, self._nameless) if type(name) is str else self._nameless

    def _end(self, delivery: Delivery, outcome: Outcome, *, ran: bool = False) -> Effects:
        """End a delivery that does not run, with all that follows (errbacks, later links).

        If it ``ran``, its hooks have seen another outcome, and are not called again.
        """
        try:
            safe = ran or delivery.message.content_type == JSON_TYPE
            request = decode(delivery.message, self._accept) if safe else self._read(delivery)
        except (SerializationError, InvalidTaskError) as error:
            return self._poison(delivery, error)
        bound = self.tasks.get(request.task or "", self._nameless)
        if outcome.state == states.FAILURE and not ran:
            run_after_hooks(bound, request, outcome)
        elif outcome.state == states.REVOKED:
            tell_revoked(bound, request, outcome)
        return self._follow(delivery, request, outcome, bound)

    def _read(self, delivery: Delivery) -> Request:
        """Return what can be known of a message that must not be decoded.

        That may run code of its sender's, and be why it killed its process. So it has no errbacks
        and no later links.
        """
        message = delivery.message
        name, task_id = message.headers.get("task"), peek_id(message)
        if not task_id:
            raise InvalidTaskError("it has no id outside of its body")
        return _undecoded(message, task_id, name if is_clean(name) else "")

    def _follow(
        self,
        delivery: Delivery,
        request: Request,
        outcome: Outcome,
        bound: BoundTask,
        *,
        held: bool = True,
    ) -> Effects:
        """Return what follows from an outcome, having called the errbacks that are called here."""
        if outcome.state == states.FAILURE and request.errbacks:
            request.errbacks = self._call_errbacks(request, outcome)
        try:
            effects = advance(delivery, request, outcome, bound, self._policy, held=held)
        except Unable as unable:
            instead = unable.outcome
        except BaseException as error:
            # Users' __json__, __str__ and the like are called in there, and raise anything.
            if isinstance(outcome.error, EncodeError):
                raise  # nothing of theirs is left in it
            instead = _untold(outcome, error)
        else:
            if outcome.state == states.RETRY:
                _tell_retried(request, outcome, effects)
            return effects
        return self._follow(delivery, request, instead, bound, held=held)

    def _poison(self, delivery: Delivery, error: Exception) -> Effects:
        signals.task_rejected.send(self._node, message=delivery.message, exc=error)
        reason = f"{type(error).__name__}: {error}"
        task_id = peek_id(delivery.message)
        if not task_id or len(task_id.encode(errors="replace")) > MAX_ID:
            return Effects(delivery, Ending.DEAD, reason=reason)
        request = _undecoded(delivery.message, task_id, "")
        outcome = Outcome(states.FAILURE, error=error, dead=reason)
        return self._follow(delivery, request, outcome, self._nameless)

    def _unknown(self, delivery: Delivery, request: Request) -> Effects:
        message = delivery.message
        signals.task_unknown.send(
            self._node,
            message=message,
            exc=NotRegistered(request.task),
            name=request.task,
            id=request.id,
        )
        tries = message.headers.get(UNKNOWN_HEADER, 0)
        tries = tries + 1 if isinstance(tries, int) else 1
        if tries > UNKNOWN_TRIES:
            error = NotRegistered(request.task)
            outcome = Outcome(states.FAILURE, error=error, dead=f"NotRegistered: {error}")
            return self._follow(delivery, request, outcome, self._nameless)
        logger.warning(
            "No task named %r is registered here; %s is tried again in %d s (%d of %d)",
            request.task,
            request.id,
            2**tries,
            tries,
            UNKNOWN_TRIES,
        )
        later = dataclasses.replace(
            message,
            exchange="",
            routing_key=delivery.queue,
            headers={**message.headers, UNKNOWN_HEADER: tries},
            not_before=self.now() + 2.0**tries,
        )
        return Effects(delivery, publish=(later,))


def _undecoded(message: Message, task_id: str, task: str) -> Request:
    """Return the request of a message whose body is not known.

    If it was a member of a chord's header, that has a join of its group's id, which knows the body.
    """
    group, index = message.headers.get("group"), message.headers.get("group_index")
    request = Request(id=task_id, task=task, reply_to=message.reply_to)
    if is_clean(group):
        request.group, request.chord = group, {}
        request.group_index = index if type(index) is int else None
    return request


def _checked_id(request: Request) -> str:
    task_id = request.id or ""
    if len(task_id) > MAX_ID or len(task_id.encode()) > MAX_ID:
        raise InvalidTaskError(f"expected an id of at most {MAX_ID} bytes")
    return task_id


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _revoked(reason: str) -> Outcome:
    return Outcome(states.REVOKED, error=TaskRevokedError(reason))


def _tell_retried(request: Request, outcome: Outcome, effects: Effects) -> None:
    changes = outcome.changes or {}
    arguments = changes.get("args", request.args), changes.get("kwargs", request.kwargs)
    for again in effects.publish:
        tell_publishing(again, arguments)


def _untold(outcome: Outcome, error: BaseException) -> Outcome:
    """Return the failure of a task whose outcome has no text that could be stored."""
    what = "returned" if outcome.error is None else "raised"
    text = f"what the task {what} cannot be stored: {type(error).__name__} while it was written"
    return Outcome(
        states.FAILURE,
        error=EncodeError(text),
        traceback=outcome.traceback,
        runtime=outcome.runtime,
        done_at=outcome.done_at,
    )


def _verdict(verdict: str) -> Outcome:
    kind, _, detail = verdict.partition(" ")
    if kind == "time-limit":
        return Outcome(states.FAILURE, error=TimeLimitExceeded(float(detail)))
    return _revoked(kind)


def no_run() -> None:
    """Stand in for the function of a task that is not known."""
