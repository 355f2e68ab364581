"""How a task is sent: what can be decided before a call is compiled, the call adds the rest.

A ``BoundCall`` is made from a task (or the bare name of one that is not here) and one configuration
snapshot: encoder, route, publisher, checks. It is used until the snapshot is no longer the newest,
by all threads, without a lock, because it never changes. A plain ``delay()`` takes the straight way
in ``send``; a call with options, with receivers of signals, or of a task whose route depends on its
arguments goes through ``send_with``.

    options of apply_async ──> options of the encoder + Route ──> Message ──> publisher
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umbel.arguments import Parameters
from umbel.config import Snapshot
from umbel.context import Application, current_request
from umbel.ids import new_id, new_ids
from umbel.message import Message
from umbel.models import dump
from umbel.opened import clock_of
from umbel.options import PER_TASK, check_call, expand, zone_of
from umbel.publisher import ONCE, RetryPolicy
from umbel.result import AsyncResult
from umbel.routing import Route
from umbel.serializers import warn_of_pickle
from umbel.signals import after_task_publish, before_task_publish
from umbel.topology import Queue
from umbel.wire.task import Request, TaskEncoder

_NOTHING: Mapping[str, Any] = {}
#: Options that say where a call goes.
_DIRECTING = frozenset({"queue", "exchange", "routing_key"})


class BoundCall:
    """Sends one task. Compiled from one snapshot; never changes; shared by threads."""

    __slots__ = (
        "_defaults",
        "_encoder",
        "_has_models",
        "_ignored",
        "_inherits_priority",
        "_is_fixed",
        "_is_uniform",
        "_least",
        "_most",
        "_names_calls",
        "_now",
        "_parameters",
        "_publisher",
        "_reply_to",
        "_routes",
        "_trail",
        "app",
        "eager",
        "name",
        "snapshot",
        "takes_detour",
        "task",
        "zone",
    )

    def __init__(
        self, app: Application, name: str, task: Any, parameters: Parameters | None
    ) -> None:
        snapshot: Snapshot = app.conf.current()
        values = snapshot.values
        self.app = app
        self.name = name
        self.snapshot = snapshot
        #: Its calls run where they are made; never so if the task is not here.
        self.eager: bool = values["task_always_eager"] and task is not None
        #: ``delay`` has to go through ``apply_async``.
        self.takes_detour = self.eager or (task is not None and task.sends_itself)
        #: None if it is not here.
        self.task = task
        self._now = clock_of(values).now
        self._parameters = parameters
        self._least = parameters.least if parameters else 0
        self._most = parameters.most if parameters else 1 << 60
        self._trail: bool = getattr(task, "trail", True)
        self.zone = zone_of(values)
        self._inherits_priority: bool = values["task_inherit_parent_priority"]
        self._defaults = _defaults(task, values)
        #: Eager calls need no broker, not even one that can be opened.
        self._publisher: Any = None if self.eager else app.publisher
        self._reply_to = "" if self.eager else app.servers().results.reply_to
        self._names_calls: bool = getattr(task, "names_calls", False)
        self._has_models = bool(getattr(task, "pydantic", False))
        route = self._fixed_route()
        self._routes: tuple[Route, ...] = (route,) if route else ()
        self._encoder = _encoder(app, name, task, route, self._defaults)
        self._ignored = task is not None and bool(_option(task, values, "ignore_result"))
        #: Calls without options are all alike.
        self._is_fixed = (
            route is not None
            and not self._inherits_priority
            and not (self._has_models or self._names_calls)
            and not (self._defaults.keys() - {"queue", "exchange", "routing_key", "priority"})
        )
        #: Calls with the same options differ in their arguments only.
        self._is_uniform = app.router.is_static and not (
            self.takes_detour or self._has_models or self._names_calls
        )

    def _fixed_route(self) -> Route | None:
        if not self.app.router.is_static:
            return None
        found = self.app.router.lookup(self.name, task=self.task)
        if found.keys() - {"queue", "exchange", "routing_key", "exchange_type"}:
            return None
        return self.app.router.route({**found, **self._defaults})

    # --- sending

    def send(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncResult[Any]:
        """Send a call without options: the hot path."""
        if not self._is_fixed or before_task_publish.receivers or after_task_publish.receivers:
            return self.send_with(args, kwargs, _NOTHING)
        if kwargs or not self._least <= len(args) <= self._most:
            self.check(args, kwargs)
        task_id = new_id()
        request = current_request.get()
        message = self._encoder.encode(
            args,
            kwargs,
            id=task_id,
            sent_at=self._now(),
            reply_to=self._reply_to,
            root_id=None if request is None else request.root_id,
            parent_id=None if request is None else request.id,
        )
        self._publisher.publish((message,), self._routes)
        result: AsyncResult[Any] = AsyncResult(task_id, app=self.app)
        if self._ignored:
            result.ignored = True
        if request is not None and self._trail:
            request.children.append(result)
        return result

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError unless the task's function takes these arguments."""
        if self._parameters is not None:
            self._parameters.check(args, kwargs)

    def send_with(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Send a call with options of apply_async."""
        request = current_request.get()
        message, route = self.prepared(args, kwargs, options, request=request)
        self._publisher.publish(
            (message,),
            (route,),
            deadline_in=options.get("deadline_in"),
            policy=policy_of(options),
        )
        return self._sent(message, options, request)

    async def asend_with(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Send a call without blocking the event loop."""
        request = current_request.get()
        message, route = self.prepared(args, kwargs, options, request=request)
        await self.app.courier.publish(
            (message,),
            (route,),
            deadline_in=options.get("deadline_in"),
            policy=policy_of(options),
        )
        return self._sent(message, options, request)

    def _sent(
        self, message: Message, options: Mapping[str, Any], request: Request | None
    ) -> AsyncResult[Any]:
        tell_published((message,))
        result = self.result(message.id, options)
        if request is not None and self._trail and options.get("add_to_parent", True):
            request.children.append(result)
        return result

    def result(self, task_id: str, options: Mapping[str, Any]) -> AsyncResult[Any]:
        """Return the result object of a call with these options."""
        result: AsyncResult[Any] = AsyncResult(task_id, app=self.app)
        ignored = options.get("ignore_result")
        result.ignored = self._ignored if ignored is None else bool(ignored)
        return result

    def results(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> list[AsyncResult[Any]]:
        """Return the result objects of calls with these options."""
        app = self.app
        results: list[AsyncResult[Any]] = [AsyncResult(each.id, app=app) for each in messages]
        ignored = options.get("ignore_result")
        if self._ignored if ignored is None else ignored:
            for each in results:
                each.ignored = True
        return results

    # --- messages

    def prepared(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        request: Request | None,
    ) -> tuple[Message, Route]:
        """Return the message of a call made here: checked, and shown to receivers of signals."""
        if kwargs or not self._least <= len(args) <= self._most:
            self.check(args, kwargs)
        check_call(options)
        if self._has_models:
            args = tuple(dump(value) for value in args)
            kwargs = {name: dump(value) for name, value in kwargs.items()}
        message, route = self.message(args, kwargs, options, request=request)
        tell_publishing(
            message,
            (args, kwargs),
            declare=route.topology.queues,
            retry_policy=options.get("retry_policy"),
        )
        return message, route

    def message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        request: Request | None = None,
    ) -> tuple[Message, Route]:
        """Return the message of a call and where it goes; ``request`` is the one that causes it.

        Options that do not exist are ignored: they may have come from elsewhere.
        """
        sent_at = self._now()
        merged, route = self._resolved(args, kwargs, options, request=request, sent_at=sent_at)
        root_id, parent_id = _lineage(options, request)
        message = self._encoder.encode(
            tuple(args),
            dict(kwargs),
            id=options.get("task_id") or new_id(),
            sent_at=sent_at,
            reply_to=self._reply_to,
            root_id=root_id,
            parent_id=parent_id,
            options=merged,
        )
        return message, route

    def _resolved(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        request: Request | None,
        sent_at: float,
    ) -> tuple[dict[str, Any], Route]:
        """Return options as the encoder takes them, and where a call with them goes."""
        if None in options.values():  # says as much as nothing
            options = {name: value for name, value in options.items() if value is not None}
        merged = {**self._defaults, **options}
        if self._names_calls and "shadow" not in merged:
            task: Any = self.task
            merged["shadow"] = task.shadow_name(args, kwargs, options)
        route = self._routes[0] if self._routes and _DIRECTING.isdisjoint(options) else None
        if route is None:
            router = self.app.router
            found = router.lookup(self.name, args, kwargs, options=options, task=self.task)
            merged = {**found, **merged}
            route = router.route(merged)
        if self._inherits_priority and request is not None and "priority" not in merged:
            merged["priority"] = (request.delivery_info or _NOTHING).get("priority")
        expand(merged, now=sent_at, zone=self.zone)
        merged["exchange"] = route.exchange
        merged["routing_key"] = route.routing_key
        return merged, route

    @property
    def is_uniform(self) -> bool:
        """Whether what options say is the same for all calls, and there is nobody to be shown them.

        Then ``members`` may be asked.
        """
        return (
            self._is_uniform
            and not before_task_publish.receivers
            and not after_task_publish.receivers
        )

    def members(
        self,
        calls: Sequence[tuple[Sequence[Any], dict[str, Any]]],
        options: Mapping[str, Any],
        *,
        group_id: str,
        first: int,
        request: Request | None,
    ) -> tuple[list[Message], Route]:
        """Return the messages of calls of one group, checked, and where they go.

        The options are those of all; the first call is the group's member ``first``.
        """
        encode, check, least, most = self._encoder.encode, self.check, self._least, self._most
        root_id, parent_id = _lineage(options, request)
        sent_at, reply_to, merged = self._now(), self._reply_to, None
        if self._is_fixed and not options:
            route = self._routes[0]
        else:
            check_call(options)
            merged, route = self._resolved((), {}, options, request=request, sent_at=sent_at)
        messages: list[Message] = []
        for index, task_id in enumerate(new_ids(len(calls))):
            args, kwargs = calls[index]
            if kwargs or not least <= len(args) <= most:
                check(args, kwargs)
            message = encode(
                tuple(args),
                kwargs,
                id=task_id,
                sent_at=sent_at,
                reply_to=reply_to,
                root_id=root_id,
                parent_id=parent_id,
                group_id=group_id,
                group_index=first + index,
                options=merged,
            )
            messages.append(message)
        return messages, route

    def changes(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options as the encoder takes them, for a retry that changes them."""
        encoded = expand(dict(options), now=self._now(), zone=self.zone)
        if not _DIRECTING.isdisjoint(options):
            route = self.app.router.route(options)
            self._publisher.declare(route)
            encoded["exchange"] = route.exchange
            encoded["routing_key"] = route.routing_key
        return encoded


def tell_publishing(
    message: Message,
    arguments: tuple[Sequence[Any], Mapping[str, Any]],
    *,
    declare: Sequence[Queue] = (),
    retry_policy: Mapping[str, Any] | None = None,
) -> None:
    """Show a message to receivers of ``before_task_publish``, if there are any.

    They may change the headers, which are not sent yet; nothing else.
    """
    if before_task_publish.receivers:
        before_task_publish.send(
            message.headers.get("task"),
            body=(*arguments, {}),
            exchange=message.exchange,
            routing_key=message.routing_key,
            headers=message.headers,
            properties=message.properties or {},
            declare=list(declare),
            retry_policy=retry_policy,
        )


def tell_published(messages: Sequence[Message]) -> None:
    """Tell receivers of ``after_task_publish``, if there are any."""
    if after_task_publish.receivers:
        for message in messages:
            after_task_publish.send(
                message.headers.get("task"),
                headers=message.headers,
                body=message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
            )


def _lineage(options: Mapping[str, Any], request: Request | None) -> tuple[str | None, str | None]:
    """Return the root's and the parent's id: as the options say, else as the causing request."""
    root_id, parent_id = options.get("root_id"), options.get("parent_id")
    if request is None:
        return root_id, parent_id
    return root_id or request.root_id, parent_id or request.id


def _defaults(task: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: getattr(task, name, None) for name in PER_TASK}
    if found["priority"] is None:
        found["priority"] = values["task_default_priority"]
    if found["delivery_mode"] is None and values["task_default_delivery_mode"] == "transient":
        found["delivery_mode"] = "transient"  # the other one is what messages are if none is named
    return {name: value for name, value in found.items() if value is not None}


def _encoder(
    app: Application, name: str, task: Any, route: Route | None, defaults: Mapping[str, Any]
) -> TaskEncoder:
    values = app.conf.current().values
    warn_of_pickle(f"the task {name}'s serializer", (getattr(task, "serializer", None),))
    return TaskEncoder(
        name,
        serializer=_option(task, values, "serializer"),
        compression=_option(task, values, "compression"),
        exchange=route.exchange if route else "",
        routing_key=route.routing_key if route else values["task_default_queue"],
        priority=defaults.get("priority", 0),
        # Who sends a task by name cannot know; null leaves it to the worker.
        ignore_result=None if task is None else _option(task, values, "ignore_result"),
        time_limit=getattr(task, "time_limit", None),
        soft_time_limit=getattr(task, "soft_time_limit", None),
        origin=app.origin,
        argsrepr_maxsize=getattr(task, "resultrepr_maxsize", 1024),
    )


def _option(task: Any, values: Mapping[str, Any], name: str) -> Any:
    value = getattr(task, name, None)
    return values[f"task_{name}"] if value is None else value


def policy_of(options: Mapping[str, Any]) -> RetryPolicy | None:
    retry = options.get("retry")
    if retry is not None and not retry:
        return ONCE
    policy = options.get("retry_policy")
    return RetryPolicy.from_mapping(policy) if policy else None
