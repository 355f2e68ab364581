"""What follows from an outcome: the semantics of the whole system, on one screen.

``advance`` is pure: from a delivery, its request and its outcome it makes Effects; it talks to
nobody. The worker commits what it returns; ``apply`` publishes and stores it.

    SUCCESS   the result; link callbacks with it in front; the next link of the chain
    RETRY     the same task again, later; the attempt's exception as its state
    FAILURE   the exception, also for every later id of the chain; errbacks
    REVOKED   the reason, also for every later id
    REJECTED  back to the queue, or to the dead letters
    IGNORED   nothing; or what the task replaced itself with

Whatever ends a member of a chord's header is its arrival there. When the last one has arrived,
``after_join`` says what follows: the body, or the failure of all that waited for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from umbel import states
from umbel.bound import BoundTask, unstorable
from umbel.canvas.following import REASON, Following, Policy, Unable, unsendable
from umbel.canvas.joins import (
    arrival_instead,
    arrival_of,
    ids_of,
    listed_tasks,
    released,
    values_of,
)
from umbel.canvas.plan import Node, replacement
from umbel.exceptions import (
    ChordError,
    Continued,
    EncodeError,
    Replaced,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
)
from umbel.message import Arrival, Delivery, Effects, Ending, Join, Message, Outcome, ResultRecord
from umbel.servers.seams import Joined
from umbel.wire.names import is_clean
from umbel.wire.result import compress_meta, encode_meta
from umbel.wire.saferepr import bounded_repr
from umbel.wire.task import Request, retry_message

#: Bytes of a result; servers refuse larger ones sooner or later, and would do so for ever.
LARGEST = 128 << 20

__all__ = ["Policy", "Unable", "advance", "after_join", "without_body"]


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


def _advance(  # noqa: C901 -- one case per state: all of the semantics in one place
    delivery: Delivery, request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> Effects:
    match outcome.state:
        case states.SUCCESS:
            return _succeeded(delivery, request, outcome, bound, policy)
        case states.RETRY:
            return _again(delivery, request, outcome, bound, policy)
        case states.FAILURE:
            return _failed(delivery, request, outcome, bound, policy)
        case states.REVOKED:
            return _stopped(delivery, request, outcome, bound, policy)
        case states.REJECTED if outcome.requeue:
            return Effects(delivery, ending=Ending.REQUEUE)
        case states.REJECTED:
            reason = f"rejected by the task: {outcome.error.reason!r}"  # type: ignore[union-attr]
            return _failed(delivery, request, outcome, bound, policy, dead=reason)
        case states.IGNORED if isinstance(outcome.error, Replaced):
            return _replaced(delivery, request, outcome.error.signature, policy)
        case states.IGNORED if isinstance(outcome.error, Continued):
            return _continued(delivery, request, outcome.error, policy)
        case states.IGNORED:
            stopped = _stopped(delivery, request, outcome, bound, policy)
            return Effects(delivery, arrivals=stopped.arrivals)
        case _:  # a custom state, progress: the task goes on
            return Effects(
                delivery,
                ending=Ending.KEEP,
                results=(_record(request, outcome, bound, policy, task_id=request.id or ""),),
            )


def _succeeded(
    delivery: Delivery, request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> Effects:
    if not (request.callbacks or request.chain or request.chord):
        return Effects(delivery, results=_results(request, outcome, bound, policy))
    following = Following(request, policy)
    for callback in request.callbacks or ():
        following.add(callback, outcome.value)
    if request.chain:
        following.add_link(request.chain, outcome.value)
    return Effects(
        delivery,
        results=_results(request, outcome, bound, policy, following.children)
        + tuple(following.results),
        publish=tuple(following.messages),
        opens=tuple(following.joins),
        arrivals=_arrival(request, outcome, bound, policy),
    )


def _continued(delivery: Delivery, request: Request, rest: Continued, policy: Policy) -> Effects:
    """Return the next link of a chain that was kept in the store."""
    following = Following(request, policy)
    following.add_link(rest.links[::-1], rest.value)
    return _begun(delivery, following)


def _begun(delivery: Delivery, following: Following) -> Effects:
    return Effects(
        delivery,
        results=tuple(following.results),
        publish=tuple(following.messages),
        opens=tuple(following.joins),
    )


def _replaced(delivery: Delivery, request: Request, node: Node, policy: Policy) -> Effects:
    """Return what a task replaced itself with: it has its id, and all that follows from it."""
    following = Following(request, policy)
    with unsendable(node):
        node = replacement(node, request, following.settle)
        following.add_settled(node)
    return _begun(delivery, following)


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
    errbacks, joins, unsent = _errbacks(request, policy)
    reason = dead or outcome.dead or _unacknowledged(outcome, bound) or unsent
    stopped = _stopped(delivery, request, outcome, bound, policy)
    return replace(
        stopped,
        ending=Ending.DEAD if reason else Ending.ACK,
        reason=reason or "",
        publish=errbacks + stopped.publish,
        opens=joins,
    )


def _stopped(
    delivery: Delivery | None,
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
) -> Effects:
    """Return the end of a task after which nothing comes: for all that was to come as well."""
    results = _results(request, outcome, bound, policy)
    arrivals = _arrival(request, outcome, bound, policy)
    following = Following(request, policy)
    if request.chain:
        never = listed_tasks(reversed(request.chain))
        results += _results_instead(never, request, outcome, bound, policy)
        arrivals += _arrivals_instead(never, request, outcome, bound, policy)
        following.give_up(never, outcome.error)
    return Effects(delivery, results=results, publish=tuple(following.messages), arrivals=arrivals)


def _errbacks(
    request: Request, policy: Policy
) -> tuple[tuple[Message, ...], tuple[Join, ...], str]:
    """Return the messages of errbacks, and why one cannot be sent, if so; the others are."""
    following = Following(request, policy)
    reason = ""
    for errback in request.errbacks or ():
        try:
            following.add(errback, request.id)
        except Unable as unable:
            reason = unable.outcome.dead or ""
    return tuple(following.messages), tuple(following.joins), reason


def _arrival(
    request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> tuple[Arrival, ...]:
    if request.chord is None:
        return ()
    state = outcome.state
    if state not in (states.SUCCESS, states.REVOKED):
        state = states.FAILURE
    arrival = arrival_of(
        request,
        state,
        outcome.value if outcome.error is None else outcome.error,
        dumps=bound.dumps,
        expires_in=policy.joins_expire,
    )
    return () if arrival is None else (arrival,)


def _results_instead(
    never: Sequence[Node], request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> tuple[ResultRecord, ...]:
    """Return the results of tasks that will never run."""
    ids = (each["options"].get("task_id") for each in never)
    return tuple(
        _record(request, outcome, bound, policy, task_id=task_id)
        for task_id in ids
        if is_clean(task_id)
    )


def _arrivals_instead(
    never: Sequence[Node], request: Request, outcome: Outcome, bound: BoundTask, policy: Policy
) -> tuple[Arrival, ...]:
    error = outcome.error or ChordError()
    found = (
        arrival_instead(each, error, request, dumps=bound.dumps, expires_in=policy.joins_expire)
        for each in never
    )
    return tuple(each for each in found if each is not None)


def after_join(
    join_id: str,
    joined: Joined,
    bound: BoundTask,
    policy: Policy,
    *,
    here: Callable[[Request, Outcome], list[Any]],
    done_at: float,
) -> Effects:
    """Return what follows when all members of a join have ended.

    ``bound`` says how results are kept. ``here`` calls the errbacks that are called in this process
    and returns the others.
    """
    body, request = released(joined)
    following = Following(request, policy)
    try:
        values = values_of(joined, bound.loads)
        following.add(body, values)
    except Unable as unable:
        outcome = replace(unable.outcome, done_at=done_at)
    except Exception as error:  # noqa: BLE001 -- ChordError; or what is saved of the header is damaged
        outcome = Outcome(states.FAILURE, error=error, done_at=done_at)
    else:
        return Effects(
            None,
            results=tuple(following.results),
            publish=tuple(following.messages),
            opens=tuple(following.joins),
            closes=join_id,
        )
    return without_body(join_id, body, request, outcome, bound, policy, here=here)


def without_body(
    join_id: str,
    body: Node,
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
    *,
    here: Callable[[Request, Outcome], list[Any]],
) -> Effects:
    """Return the failure of all that waited for a join; the body's errbacks get its id."""
    never = listed_tasks([body])
    end = ids_of(body)
    failed = Request(
        id=end.get("task_id") or "",
        task="",
        root_id=request.root_id,
        parent_id=request.id,
        reply_to=end.get("reply_to") or request.reply_to,
        errbacks=_signatures(end.get("link_error")),
    )
    failed.errbacks = here(failed, outcome) if failed.errbacks else None
    publish, joins, _ = _errbacks(failed, policy)
    following = Following(request, policy)
    following.give_up(never, outcome.error)
    return Effects(
        None,
        results=_results_instead(never, failed, outcome, bound, policy),
        publish=publish + tuple(following.messages),
        opens=joins,
        arrivals=_arrivals_instead(never, failed, outcome, bound, policy),
        closes=join_id,
    )


def _signatures(given: Any) -> list[Any] | None:
    listed = [given] if isinstance(given, Mapping) else given if isinstance(given, list) else ()
    return [each for each in listed if isinstance(each, Mapping)] or None


def _unacknowledged(outcome: Outcome, bound: BoundTask) -> str | None:
    """Return why the message of a failed task is kept, if its task wants that."""
    timed_out = isinstance(outcome.error, (SoftTimeLimitExceeded, TimeLimitExceeded))
    if not bound.acks_late or (bound.acks_timeouts if timed_out else bound.acks_failures):
        return None
    shown = bounded_repr(outcome.error, REASON)
    setting = "acks_on_timeout" if timed_out else "acks_on_failure"
    return f"the task failed, and {setting} (or acks_on_failure_or_timeout) is off: {shown}"


def _results(
    request: Request,
    outcome: Outcome,
    bound: BoundTask,
    policy: Policy,
    follow_ups: Sequence[Any] = (),
) -> tuple[ResultRecord, ...]:
    ignore = bound.ignore_result if request.ignore_result is None else request.ignore_result
    if ignore and not (bound.store_errors and outcome.error is not None):
        return ()
    children: list[Any] | tuple[()] = ()
    if request.children or follow_ups:
        children = [child.as_tuple() for child in request.children]
        children += follow_ups
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
