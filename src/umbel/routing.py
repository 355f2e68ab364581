"""Where a call goes: from a task's name and a call's options to exchange, routing key and queue.

What decides, the strongest first: the options of the call, the task's own attributes, the routes
of ``task_routes``, the default queue. A ``Router`` is compiled from one configuration snapshot and
never changes, except that queues made when first used are added to its table.

As in Celery, a queue whose exchange is direct is reached through the empty exchange by its own
name, so that neither side depends on the other's bindings; a routing key alone therefore means
nothing there. A ``Broadcast`` is a fanout exchange to which every worker binds its own queue.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from umbel.config import import_named
from umbel.exceptions import ImproperlyConfigured, QueueNotFound
from umbel.spelling import suggestion
from umbel.topology import Exchange, ExchangeType, Queue, Topology

Options = Mapping[str, Any]
#: ``(name, args, kwargs, options, task)`` -> queue name, options or None
RouteFunction = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Every worker that consumes it receives every message: a fanout exchange of this name."""

    name: str
    exchange: Exchange = field(default_factory=Exchange)

    def __post_init__(self) -> None:
        """Name the exchange as the broadcast, unless one was given."""
        if not self.exchange.name:
            object.__setattr__(self, "exchange", Exchange(self.name, "fanout"))

    def queue_for(self, consumer: str) -> Queue:
        """Return the queue of one consumer; it vanishes with it."""
        return Queue(f"bcast.{consumer}.{self.name}", self.exchange, auto_delete=True)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a message goes, and what must exist for that."""

    exchange: str
    routing_key: str
    #: The queue's name; "" when only an exchange is known.
    queue: str = ""
    topology: Topology = field(default_factory=Topology)
    #: Names of what the topology holds: which ones a process has declared is remembered by it.
    needs: tuple[str, ...] = ()


class Router:
    """Decides for one configuration snapshot. Shared by threads."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        name = settings["task_default_queue"]
        self._default_exchange = Exchange(
            settings["task_default_exchange"] or name, settings["task_default_exchange_type"]
        )
        self._default_key: str = settings["task_default_routing_key"] or name
        #: By name; grows when queues are made on first use (setdefault is atomic).
        self.queues: dict[str, Queue | Broadcast] = {}
        for each in _listed_queues(settings["task_queues"]) or [name]:
            queue = self._made_up(each) if isinstance(each, str) else self._completed(each)
            self.queues[queue.name] = queue
        #: What workers consume that were not told which queues.
        self.consumed: tuple[str, ...] = tuple(self.queues)
        self._routes = tuple(_compiled(each) for each in _listed_routes(settings["task_routes"]))
        #: Routes depend on names alone, so that they can be decided once per task.
        self.is_static = all(isinstance(each, _Map) for each in self._routes)

    def queue(self, name: str) -> Queue | Broadcast:
        """Return the queue of this name, making it up if that is allowed; else QueueNotFound."""
        found = self.queues.get(name)
        if found is not None:
            return found
        if not self._settings["task_create_missing_queues"]:
            hint = suggestion(name, self.queues)
            raise QueueNotFound(f"queue {name!r} is not in task_queues{hint}")
        return self.queues.setdefault(name, self._made_up(name))

    def _made_up(self, name: str) -> Queue | Broadcast:
        settings = self._settings
        if name == settings["task_default_queue"]:
            kind = settings["task_default_queue_type"]
            return self._completed(Queue(name, queue_arguments=_type_argument(kind)))
        exchange_type: ExchangeType = (
            settings["task_create_missing_queue_exchange_type"] or "direct"
        )
        kind = settings["task_create_missing_queue_type"]
        return Queue(
            name,
            Exchange(name, exchange_type),
            name,
            max_priority=settings["task_queue_max_priority"],
            queue_arguments=_type_argument(kind),
        )

    def lookup(
        self,
        name: str,
        args: Any = (),
        kwargs: Any = None,
        *,
        options: Options | None = None,
        task: Any = None,
    ) -> dict[str, Any]:
        """Return what ``task_routes`` says about this call: options, maybe none."""
        for each in self._routes:
            found = each(name, args, kwargs or {}, dict(options or {}), task=task)
            if found:
                return {"queue": found} if isinstance(found, (str, Queue)) else dict(found)
        return {}

    def route(self, options: Options) -> Route:
        """Return where a call with these options goes; ``queue`` may be a name or a Queue."""
        queue = options.get("queue")
        exchange = _exchange_name(options.get("exchange"))
        key = options.get("routing_key")
        if queue is None and exchange is not None:
            return self._to_exchange(options, exchange, key)
        if queue is None:
            queue = self._settings["task_default_queue"]
        found = self.queue(queue) if isinstance(queue, str) else self._completed(as_queue(queue))
        needs = (found.exchange.name, found.name)
        if isinstance(found, Broadcast):
            topology = Topology(exchanges=(found.exchange,))
            return Route(exchange or found.exchange.name, key or "", found.name, topology, needs)
        topology = Topology(exchanges=(found.exchange,), queues=(found,))
        if exchange is None and found.exchange.type == "direct":
            return Route("", found.name, found.name, topology, needs)
        if key is None:
            key = found.name if exchange == "" else found.routing_key
        exchange = found.exchange.name if exchange is None else exchange
        return Route(exchange, key, found.name, topology, needs)

    def _to_exchange(self, options: Options, exchange: str, key: str | None) -> Route:
        given = options.get("exchange")
        declared: tuple[Exchange, ...] = ()
        if isinstance(given, Exchange):
            declared = (given,)
        elif options.get("exchange_type"):
            declared = (Exchange(exchange, options["exchange_type"]),)
        bound = [each for each in self.queues.values() if each.exchange.name == exchange]
        topology = Topology(
            exchanges=declared or tuple(each.exchange for each in bound[:1]),
            queues=tuple(each for each in bound if isinstance(each, Queue)),
        )
        key = self._default_key if key is None else key
        return Route(exchange, key, "", topology, (exchange,))

    def _completed(self, queue: Queue | Broadcast) -> Queue | Broadcast:
        """Give a queue the default exchange and key where it names none."""
        if isinstance(queue, Broadcast):
            return queue
        return replace(
            queue,
            exchange=queue.exchange if queue.exchange.name else self._default_exchange,
            routing_key=queue.routing_key or self._default_key,
            max_priority=self._settings["task_queue_max_priority"]
            if queue.max_priority is None
            else queue.max_priority,
        )


def direct_queue(node: str) -> Queue:
    """Return the queue that only this worker consumes, where ``worker_direct`` is set."""
    return Queue(f"{node}.dq2", Exchange("C.dq2"), node)


def _type_argument(kind: str) -> dict[str, Any]:
    return {} if kind == "classic" else {"x-queue-type": kind}


def _exchange_name(exchange: Any) -> str | None:
    return exchange if exchange is None or isinstance(exchange, str) else str(exchange.name)


# --- task_queues


def _listed_queues(setting: Any) -> list[Queue | Broadcast | str]:
    if not setting:
        return []
    if isinstance(setting, Mapping):
        return [_queue_from_dict(name, about) for name, about in setting.items()]
    if isinstance(setting, (str, Queue, Broadcast)):
        setting = [setting]
    return [each if isinstance(each, str) else as_queue(each) for each in setting]


def _queue_from_dict(name: str, about: Mapping[str, Any]) -> Queue:
    about = dict(about)
    exchange = about.pop("exchange", None) or ""
    kind = cast("ExchangeType", about.pop("exchange_type", None) or "direct")
    key = about.pop("binding_key", None) or about.pop("routing_key", None) or ""
    made = exchange if isinstance(exchange, Exchange) else Exchange(exchange, kind)
    return Queue(name, made, key, **about)


def as_queue(value: Any) -> Queue | Broadcast:
    """Return our Queue for a Queue or another library's object with the same attributes."""
    if isinstance(value, (Queue, Broadcast)):
        return value
    if not isinstance(getattr(value, "name", None), str):
        raise ImproperlyConfigured(f"expected a Queue or a name, got {value!r}")
    exchange = getattr(value, "exchange", None)
    return Queue(
        value.name,
        Exchange(
            getattr(exchange, "name", "") or "",
            cast("ExchangeType", getattr(exchange, "type", None) or "direct"),
        ),
        getattr(value, "routing_key", None) or "",
        durable=bool(getattr(value, "durable", True)),
        exclusive=bool(getattr(value, "exclusive", False)),
        auto_delete=bool(getattr(value, "auto_delete", False)),
        expires=getattr(value, "expires", None),
        message_ttl=getattr(value, "message_ttl", None),
        max_length=getattr(value, "max_length", None),
        max_priority=getattr(value, "max_priority", None),
        queue_arguments=dict(getattr(value, "queue_arguments", None) or {}),
    )


# --- task_routes


@dataclass(frozen=True, slots=True)
class _Map:
    """Routes by task name: exact names first, then patterns in their order."""

    exact: Mapping[str, Any]
    patterns: tuple[tuple[re.Pattern[str], Any], ...]

    def __call__(self, name: str, *_: Any, **__: Any) -> Any:
        found = self.exact.get(name)
        if found is not None:
            return found
        for pattern, route in self.patterns:
            if pattern.match(name):
                return route
        return None


def _listed_routes(setting: Any) -> Iterable[Any]:
    if not setting:
        return ()
    if isinstance(setting, (Mapping, str)) or callable(setting):
        return [setting]
    listed = list(setting)
    if listed and all(_is_pair(each) for each in listed):
        return [listed]  # an ordered list of (pattern, route) is one map
    return listed


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _compiled(route: Any) -> RouteFunction:
    if isinstance(route, str):
        route = import_named(route)
    if isinstance(route, type):
        route = route()
    if isinstance(route, Mapping):
        return _map(route.items())
    if isinstance(route, (list, tuple)):
        return _map(route)
    method = getattr(route, "route_for_task", None)
    if method is not None:
        return lambda name, args, kwargs, _options, task=None: method(name, args, kwargs)  # noqa: ARG005 -- the signature of routers
    if callable(route):
        return cast("RouteFunction", route)
    raise ImproperlyConfigured(
        f"task_routes: expected a dict, a list of pairs or a function, got {route!r}"
    )


def _map(pairs: Iterable[tuple[Any, Any]]) -> _Map:
    exact: dict[str, Any] = {}
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for pattern, route in pairs:
        if isinstance(pattern, re.Pattern):
            patterns.append((pattern, route))
        elif any(sign in pattern for sign in "*?["):
            patterns.append((re.compile(fnmatch.translate(pattern)), route))
        else:
            exact[pattern] = route
    return _Map(exact, tuple(patterns))
