"""Running a task where it is called: ``apply``, and every call under ``task_always_eager``.

The task runs through the same executor as in a worker, so hooks, signals, retries and states are
the same; what a worker would send afterwards is run here at once: callbacks, error callbacks, and
a retry, without waiting. Under ``task_always_eager`` what would travel is encoded and decoded on
its way: arguments, those that a retry changes too, and results (``task_eager_serializes``).
"""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any

from umbel import states
from umbel.bound import BoundTask, bound_in, call_errbacks, unstorable
from umbel.canvas.plan import listed_signatures, replacement, settle
from umbel.canvas.signature import maybe_signature
from umbel.context import current_request
from umbel.exceptions import EncodeError, Ignore, Reject, Replaced
from umbel.executor import execute, execute_async
from umbel.ids import new_id, node_name
from umbel.message import Outcome, ResultRecord
from umbel.models import dump
from umbel.options import check_call
from umbel.result import EagerResult
from umbel.serializers import Serializer, get
from umbel.wire.result import compress_meta, encode_meta
from umbel.wire.task import Request

#: Options that ``apply`` has beside those of ``apply_async``.
_ONLY_HERE = frozenset({"throw", "logfile", "loglevel"})


def send(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run a call that would have been sent."""
    task.bound_call().check(args, kwargs)
    return run(task, args, kwargs, options)


def run(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run a call here and now, to its final state; return its result."""
    check_call(options, more=_ONLY_HERE)
    bound: BoundTask = task.bound_task()
    parent = current_request.get()
    request = _request(task, args, kwargs, options, parent)
    request, outcome = _run_to_end(task, bound, request, options.get("serializer"))
    if isinstance(outcome.error, Replaced):
        return _replaced(task, request, outcome.error.signature)
    result = _result(task, bound, request, outcome)
    if parent is not None and task.trail and options.get("add_to_parent", True):
        parent.children.append(result)
    _follow_up(task, request, outcome)
    throw = options.get("throw")
    if task.app.conf.task_eager_propagates if throw is None else throw:
        result.get()
    return result


def _request(
    task: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Mapping[str, Any],
    parent: Request | None,
) -> Request:
    task_id = options.get("task_id") or new_id()
    return Request(
        id=task_id,
        task=task.name,
        args=list(args),
        kwargs=dict(kwargs),
        root_id=options.get("root_id") or (parent.root_id if parent else task_id),
        parent_id=options.get("parent_id") or (parent.id if parent else None),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        retries=options.get("retries", 0),
        callbacks=listed_signatures(options.get("link")) or None,
        errbacks=listed_signatures(options.get("link_error")) or None,
        chain=options.get("chain"),
        headers=dict(options["headers"]) if options.get("headers") else None,
        shadow=options.get("shadow"),
        ignore_result=options.get("ignore_result"),
        delivery_info={
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
            "redelivered": False,
        },
        hostname=node_name(),
        is_eager=True,
        called_directly=False,
    )


def _run_to_end(
    task: Any, bound: BoundTask, request: Request, serializer: str | None
) -> tuple[Request, Outcome]:
    """Run a request and its retries; return the last one and what became of it."""
    conf = task.app.conf
    travels = conf.task_always_eager and conf.task_eager_serializes
    while True:
        if travels:
            _receive(task, request, serializer)
        outcome = _run_once(bound, request)
        if outcome.state != states.RETRY:
            break
        request = _next_attempt(request, outcome)
    if travels and outcome.state == states.SUCCESS:
        outcome = _stored(bound, request, outcome, get(conf.result_serializer))
    return request, outcome


def _receive(task: Any, request: Request, name: str | None) -> None:
    """Give a request the arguments that would arrive, had it been sent."""
    serializer = get(name or task.serializer or task.app.conf.task_serializer)
    args, kwargs = request.args, request.kwargs
    if getattr(task, "pydantic", False):
        args = [dump(value) for value in args]
        kwargs = {name: dump(value) for name, value in kwargs.items()}
    request.args, request.kwargs = serializer.loads(serializer.dumps([args, kwargs]))


def _stored(
    bound: BoundTask, request: Request, outcome: Outcome, serializer: Serializer
) -> Outcome:
    """Return a success as a caller would find it: if its value cannot be stored, it is a failure.

    What nobody would store is let alone.
    """
    ignored = bound.ignore_result if request.ignore_result is None else request.ignore_result
    if ignored and not (request.callbacks or request.chain):
        return outcome
    try:
        return replace(outcome, value=serializer.loads(serializer.dumps(outcome.value)))
    except EncodeError as error:
        return unstorable(outcome, error)


def _run_once(bound: BoundTask, request: Request) -> Outcome:
    if not bound.is_async:
        return execute(bound, request)
    return _run_apart(execute_async(bound, request, why=lambda: None))


def _run_apart(running: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run a coroutine in a thread of its own: this one may have a loop that runs already."""
    import asyncio  # noqa: PLC0415 -- `import umbel` must not load it

    context = copy_context()
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(context.run(asyncio.run, running)), name="umbel-eager"
    )
    thread.start()
    thread.join()
    return outcomes[0]


def _next_attempt(request: Request, outcome: Outcome) -> Request:
    changes = outcome.changes or {}
    again = Request(**{name: getattr(request, name) for name in Request.__slots__})
    again.retries = request.retries + 1
    again.children = []
    if changes.get("args") is not None:
        again.args = list(changes["args"])
    if changes.get("kwargs") is not None:
        again.kwargs = dict(changes["kwargs"])
    return again


def _result(task: Any, bound: BoundTask, request: Request, outcome: Outcome) -> EagerResult[Any]:
    value = outcome.value if outcome.error is None else outcome.error
    state = outcome.state
    if isinstance(outcome.error, Reject):
        state = states.REJECTED
    elif isinstance(outcome.error, Ignore):
        state = states.IGNORED
    result: EagerResult[Any] = EagerResult(
        request.id,
        value,
        state,
        traceback=outcome.traceback,
        name=task.name,
        children=[each.as_tuple() for each in request.children],
    )
    values = task.app.conf.current().values
    stored = task.store_eager_result
    if values["task_store_eager_result"] if stored is None else stored:
        record = _record(bound, request, outcome, state=state, value=value)
        task.app.servers().results.put([record])
    return result


def _record(
    bound: BoundTask, request: Request, outcome: Outcome, *, state: str, value: Any
) -> ResultRecord:
    meta = encode_meta(
        request.id,
        state,
        result=value,
        traceback=outcome.traceback,
        date_done=outcome.done_at,
        request=request,
        dumps=bound.dumps,
    )
    if bound.compression is not None:
        meta = compress_meta(meta, bound.compression)
    expires = bound.failure_expires if state == states.FAILURE else bound.result_expires
    return ResultRecord(request.id, meta, state, expires)


def _replaced(task: Any, request: Request, signature: Any) -> EagerResult[Any]:
    node = replacement(signature, request, partial(settle, new_id=new_id))
    result: EagerResult[Any] = maybe_signature(node, task.app).apply()
    return result


def _follow_up(task: Any, request: Request, outcome: Outcome) -> None:
    if outcome.state == states.SUCCESS:
        for callback in request.callbacks or ():
            maybe_signature(callback, task.app).apply((outcome.value,))
        if request.chain:
            *rest, following = request.chain
            maybe_signature(following, task.app).apply((outcome.value,), chain=rest or None)
    elif outcome.state == states.FAILURE:
        for errback in call_errbacks(request, outcome, partial(bound_in, task.app)):
            maybe_signature(errback, task.app).apply((request.id,))
