"""Running a task where it is called: ``apply``, and every call under ``task_always_eager``.

The task runs through the same executor as in a worker, so hooks, signals, retries and states are
the same; what a worker would send afterwards is run here at once: callbacks, error callbacks, and
a retry, without waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Mapping
from contextvars import copy_context
from typing import Any

from umbel import states
from umbel.bound import BoundTask
from umbel.canvas.signature import listed_signatures, maybe_signature
from umbel.context import current_request
from umbel.exceptions import Ignore, Reject
from umbel.executor import execute, execute_async
from umbel.ids import new_id, node_name
from umbel.message import Outcome, ResultRecord
from umbel.options import check_call
from umbel.result import EagerResult
from umbel.serializers import get
from umbel.wire.result import compress_meta, encode_meta
from umbel.wire.task import Request

#: Options that ``apply`` has beside those of ``apply_async``.
_ONLY_HERE = frozenset({"throw", "logfile", "loglevel"})


def send(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run a call that would have been sent, its arguments encoded and decoded on the way."""
    task.bound_call().check(args, kwargs)
    conf = task.app.conf
    if conf.task_eager_serializes:
        serializer = get(options.get("serializer") or task.serializer or conf.task_serializer)
        received, kwargs = serializer.loads(serializer.dumps([list(args), kwargs]))
        args = tuple(received)
    return run(task, args, kwargs, options)


def run(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run a call here and now, to its final state; return its result."""
    check_call(options, more=_ONLY_HERE)
    bound: BoundTask = task.bound_task()
    parent = current_request.get()
    request = _request(task, args, kwargs, options, parent)
    outcome = _run_once(bound, request)
    while outcome.state == states.RETRY:
        request = _next_attempt(request, outcome)
        outcome = _run_once(bound, request)
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


def _run_once(bound: BoundTask, request: Request) -> Outcome:
    if not bound.is_async:
        return execute(bound, request)
    return _run_to_end(execute_async(bound, request, why=lambda: None))


def _run_to_end(running: Coroutine[Any, Any, Outcome]) -> Outcome:
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


def _follow_up(task: Any, request: Request, outcome: Outcome) -> None:
    if outcome.state == states.SUCCESS:
        for callback in request.callbacks or ():
            maybe_signature(callback, task.app).apply((outcome.value,))
        if request.chain:
            *rest, following = request.chain
            maybe_signature(following, task.app).apply((outcome.value,), chain=rest or None)
    elif outcome.state == states.FAILURE:
        for errback in request.errbacks or ():
            maybe_signature(errback, task.app).apply((request.id,))
