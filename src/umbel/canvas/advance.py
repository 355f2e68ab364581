"""What follows from an outcome: the semantics of the whole system, on one screen.

``advance`` is pure: from a delivery, its request and its outcome it makes Effects; it talks to
nobody. The worker commits what it returns; ``apply`` publishes and stores it.

    SUCCESS   the result; link callbacks with it in front; the next link of the chain
    RETRY     the same task again, later; the attempt's exception as its state
    FAILURE   the exception, also for every later id of the chain; errbacks
    REVOKED   the reason
    REJECTED  back to the queue, or to the dead letters
    IGNORED   nothing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from umbel import states
from umbel.bound import BoundTask, unstorable
from umbel.exceptions import EncodeError, SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.message import Delivery, Effects, Ending, Message, Outcome, ResultRecord
from umbel.wire.result import compress_meta, encode_meta, task_tuple
from umbel.wire.saferepr import bounded_repr
from umbel.wire.task import Request, retry_message

#: Characters of an exception in the reason why a message is among the dead letters.
_REASON = 300

#: Bytes of a result; servers refuse larger ones sooner or later, and would do so for ever.
LARGEST = 128 << 20

#: (signature, arguments in front, the request that causes it, further options) -> its message
MessageFor = Callable[[Mapping[str, Any], Sequence[Any], Request, Mapping[str, Any]], Message]


@dataclass(frozen=True, slots=True)
class Policy:
    """What advancing needs to know of the application; compiled once per worker."""

    message_for: MessageFor
    #: The node's name, stored with extended results.
    worker: str = ""
    extended: bool = False
    #: (the request that causes them, their number) -> the id of a follow-up that was given none.
    #: For servers whose commit is ordered: a repeat is recognisable by it. None = a random one.
    derived_id: Callable[[Request, int], str] | None = None


class Unable(Exception):  # noqa: N818 -- tells who asks for effects, nobody else
    """Nothing can follow from this outcome; ``outcome`` is what it becomes instead."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


def advance(
    delivery: Delivery,
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
    *,
    held: bool = True,
) -> Effects:
    """Return what follows from this outcome.

    ``held`` is false when the delivery was acknowledged before it ran: then nothing fences them.
    Raises Unable if a result or follow-up cannot be written; never so for a FAILURE.
    """
    try:
        effects = _advance(delivery, request, outcome, bound, policy)
    except EncodeError as error:
        raise Unable(unstorable(outcome, error)) from error
    return effects if held else replace(effects, delivery=None, acknowledged=delivery)


def _advance(
    delivery: Delivery, request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> Effects:
    match outcome.state:
        case states.SUCCESS:
            publish = _follow_ups(request, outcome, policy) if _has_next(request) else ()
            results = _results(request, outcome, bound, policy, publish)
            return Effects(delivery, results=results, publish=publish)
        case states.RETRY:
            return _again(delivery, request, outcome, bound, policy)
        case states.FAILURE:
            return _failed(delivery, request, outcome, bound, policy)
        case states.REVOKED:
            return Effects(delivery, results=_results(request, outcome, bound, policy))
        case states.REJECTED if outcome.requeue:
            return Effects(delivery, ending=Ending.REQUEUE)
        case states.REJECTED:
            reason = f"rejected by the task: {outcome.error.reason!r}"  # type: ignore[union-attr]
            return _failed(delivery, request, outcome, bound, policy, dead=reason)
        case states.IGNORED:
            return Effects(delivery)
        case _:  # a custom state, progress: the task goes on
            return Effects(
                delivery,
                ending=Ending.KEEP,
                results=(_record(request, outcome, bound, policy, task_id=request.id or ""),),
            )


def _again(
    delivery: Delivery, request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> Effects:
    changes = outcome.changes or {}
    again = retry_message(
        delivery.message,
        request,
        retries=request.retries + 1,
        not_before=outcome.not_before,
        args=changes.get("args"),
        kwargs=changes.get("kwargs"),
        # to the queue it came from, whatever exchange led there
        options={"exchange": "", "routing_key": delivery.queue, **changes.get("options", {})},
    )
    return Effects(delivery, results=_results(request, outcome, bound, policy), publish=(again,))


def _failed(
    delivery: Delivery,
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
    *,
    dead: str | None = None,
) -> Effects:
    errbacks, unsent = _errbacks(request, policy)
    reason = dead or outcome.dead or _unacknowledged(outcome, bound) or unsent
    later = tuple(
        _record(request, outcome, bound, policy, task_id=task_id)
        for task_id in _later_ids(request.chain)
    )
    return Effects(
        delivery,
        ending=Ending.DEAD if reason else Ending.ACK,
        reason=reason or "",
        results=_results(request, outcome, bound, policy) + later,
        publish=errbacks,
    )


def _errbacks(request: Request, policy: Policy) -> tuple[tuple[Message, ...], str]:
    """Return the messages of errbacks, and why one cannot be sent, if so; the others are."""
    messages: list[Message] = []
    reason = ""
    for n, errback in enumerate(request.errbacks or ()):
        options = _id(errback, request, n, policy)
        try:
            messages.append(_message(errback, [request.id], request, options, policy))
        except Unable as unable:
            reason = unable.outcome.dead or ""
    return tuple(messages), reason


def _unacknowledged(outcome: Outcome, bound: BoundTask) -> str | None:
    """Return why the message of a failed task is kept, if its task wants that."""
    timed_out = isinstance(outcome.error, (SoftTimeLimitExceeded, TimeLimitExceeded))
    if not bound.acks_late or (bound.acks_timeouts if timed_out else bound.acks_failures):
        return None
    shown = bounded_repr(outcome.error, _REASON)
    setting = "acks_on_timeout" if timed_out else "acks_on_failure"
    return f"the task failed, and {setting} (or acks_on_failure_or_timeout) is off: {shown}"


def _results(
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
    follow_ups: tuple[Message, ...] = (),
) -> tuple[ResultRecord, ...]:
    ignore = bound.ignore_result if request.ignore_result is None else request.ignore_result
    if ignore and not (bound.store_errors and outcome.error is not None):
        return ()
    children: list[Any] | tuple[()] = ()
    if request.children or follow_ups:
        children = [child.as_tuple() for child in request.children]
        children += [task_tuple(message.id) for message in follow_ups]
    task_id = request.id or ""
    return (_record(request, outcome, bound, policy, task_id=task_id, children=children),)


def _record(
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
    *,
    task_id: str,
    children: Sequence[Any] = (),
) -> ResultRecord:
    state = states.FAILURE if outcome.state == states.REJECTED else outcome.state
    meta = encode_meta(
        task_id,
        state,
        result=outcome.value if outcome.error is None else outcome.error,
        traceback=outcome.traceback,
        children=children,
        date_done=outcome.done_at,
        request=request,
        extended=policy.extended,
        worker=policy.worker,
        dumps=bound.dumps,
    )
    if bound.compression is not None:
        meta = compress_meta(meta, bound.compression)
    expires = bound.failure_expires if state == states.FAILURE else bound.result_expires
    if len(meta) > LARGEST:
        raise EncodeError(
            f"it has {len(meta):,} bytes, and {LARGEST:,} can be stored; "
            "return a reference to the data instead"
        )
    return ResultRecord(task_id, meta, state, expires, request.reply_to)


def _has_next(request: Request) -> bool:
    return bool(request.callbacks or request.chain)


def _follow_ups(request: Request, outcome: Outcome, policy: Policy) -> tuple[Message, ...]:
    messages = [
        _message(callback, [outcome.value], request, _id(callback, request, n, policy), policy)
        for n, callback in enumerate(request.callbacks or ())
    ]
    if request.chain:
        *rest, following = request.chain  # the next link is the last element (wire-protocol 5.3)
        options = {"chain": rest or None}
        messages.append(_message(following, [outcome.value], request, options, policy))
    return tuple(messages)


def _message(
    signature: Mapping[str, Any],
    args: Sequence[Any],
    request: Request,
    options: Mapping[str, Any],
    policy: Policy,
) -> Message:
    try:
        return policy.message_for(signature, args, request, options)
    except Exception as error:  # it came in a message: whatever is wrong with it ends here
        name, shown = bounded_repr(signature.get("task"), 127), bounded_repr(error, _REASON)
        reason = f"its follow-up {name} cannot be sent: {shown}"
        raise Unable(Outcome(states.FAILURE, error=error, dead=reason)) from error


def _id(
    signature: Mapping[str, Any], request: Request, number: int, policy: Policy
) -> Mapping[str, Any]:
    """Return the option that names a follow-up, if it shall have a derived id."""
    if policy.derived_id is None or (signature.get("options") or {}).get("task_id"):
        return {}
    return {"task_id": policy.derived_id(request, number)}


def _later_ids(chain: Sequence[Mapping[str, Any]] | None) -> Iterator[str]:
    for link in reversed(chain or ()):
        task_id = (link.get("options") or {}).get("task_id")
        if task_id:
            yield task_id
