"""From an application and options to a running worker: here the parts are put together."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Literal, Protocol

from umbel import ids
from umbel.bound import AfterHook, BeforeHook, BoundTask, bind, nameless
from umbel.canvas.advance import Policy
from umbel.canvas.plan import Call, joins_expire
from umbel.clock import Clock
from umbel.exceptions import ImproperlyConfigured
from umbel.message import Message
from umbel.opened import Servers, clock_of
from umbel.routing import Broadcast, Router, direct_queue
from umbel.serializers import accepted
from umbel.servers.seams import Server
from umbel.task import Task
from umbel.topology import Queue, Topology
from umbel.wire.task import Request
from umbel.worker.board import Board, Slot
from umbel.worker.cpus import available_cpus
from umbel.worker.engine import Engine, Plan, loop_class
from umbel.worker.joiner import Joiner
from umbel.worker.node import Beside, Node, NodePlan, taken_for
from umbel.worker.pools import Shape, run_solo, supervise
from umbel.worker.rates import Budgets, Rates, per_second
from umbel.worker.relay import Relay
from umbel.worker.service import Service, no_run

logger = logging.getLogger("umbel.worker")

#: Namespace of the ids derived from a task's id.
_FOLLOW_UPS = uuid.UUID("5f0f4d0e-6f3c-4b07-9a55-0d6f6c1f3b1e")


class Application(Protocol):
    """What a worker needs of an application."""

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The registered tasks."""
        ...

    @property
    def router(self) -> Router:
        """Where queues lead."""
        ...

    @property
    def conf(self) -> Any:
        """The settings."""
        ...

    def servers(self) -> Servers:
        """Return the opened servers."""
        ...

    def follow_up(self, planned: Call, request: Request) -> Message:
        """Return the message of a call that follows from a request."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the command line says; empty values leave it to the configuration."""

    node: str = "umbel@%h"
    queues: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Processes or threads that run tasks; 0 = worker_concurrency, else the available CPUs.
    concurrency: int = 0
    pool: Literal["prefork", "threads", "solo"] | None = None
    #: Most and least processes; None = always as many as ``concurrency`` says.
    autoscale: tuple[int, int] | None = None
    #: Where ``/livez`` and ``/readyz`` are answered: port, host:port or path; "" = nowhere.
    health: str = ""
    health_file: str = ""
    #: Compiled into every task, for logs; nothing = they cost nothing.
    before: tuple[BeforeHook, ...] = ()
    after: tuple[AfterHook, ...] = ()
    #: Called in each process that will run tasks.
    on_start: Callable[[], object] = lambda: None
    #: Makes what runs beside the node, in its process: a scheduler.
    beside: Callable[[str], Beside] | None = None


class Worker:
    """A worker of an application, ready to run. The main thread owns it."""

    def __init__(self, app: Application, options: WorkerOptions) -> None:
        self.app = app
        self.node = ids.node_name(options.node)
        self.pool = options.pool or app.conf.worker_pool
        most, self.least = options.autoscale or (0, 0)
        self.concurrency = (
            most or options.concurrency or app.conf.worker_concurrency or available_cpus()
        )
        self.queues = _chosen_queues(app.router, self.node, options)
        if app.conf.worker_direct:
            self.queues += (direct_queue(self.node),)
        for task in app.tasks.values():
            per_second(task.rate_limit, task.name)  # a bad one is said now, not by each process
        self._options = options
        self._clock = clock_of(app.conf.current().values)
        self._patience: float = app.conf.worker_soft_shutdown_timeout
        self._lease: float = app.conf.worker_lease
        self._in_processes = self.pool == "prefork"
        if self.least and not self._in_processes:
            raise ImproperlyConfigured("autoscale needs the pool prefork: it starts processes")
        self._lanes = self.concurrency if self.pool == "threads" else 1
        self._entries = self._lanes + app.conf.worker_async_concurrency

    def run(
        self,
        on_ready: Callable[[], None],
        on_solo_end: Callable[[bool], None] = lambda restarting: None,  # noqa: ARG005
    ) -> int:
        """Run until a signal ends it; return the exit code, or RESTART.

        In the solo pool it does not return, but calls ``on_solo_end`` with whether to start anew.
        """
        # Imported here, once for all children: drivers (nothing connects yet), and asyncio.
        self.app.servers()
        if any(iscoroutinefunction(task.run) for task in self.app.tasks.values()):
            loop_class()
        if self.pool == "solo":
            for name in self._not_in_solo():
                logger.warning("%s has no effect in the pool solo: it has one process", name)
            run_solo(self, self.shape, on_ready=on_ready, on_end=on_solo_end)
        return supervise(self.shape, lambda: self, on_ready)

    def _not_in_solo(self) -> list[str]:
        """Return the settings that were made and need somebody who could end the process."""
        conf = self.app.conf
        names = ("worker_max_tasks_per_child", "worker_max_memory_per_child")
        found = [name for name in names if conf[name]]
        bound = self._bound_tasks().values()
        if any(task.time_limit and not task.is_async for task in bound):
            found.append("time_limit of synchronous tasks")
        return found

    @property
    def shape(self) -> Shape:
        """What its supervisor must know."""
        return Shape(
            node=self.node,
            processes=self.concurrency if self._in_processes else 1,
            entries=self._entries,
            patience=self._patience,
            least=self.least,
            health=self._options.health,
            health_file=self._options.health_file,
        )

    def make_engine(
        self,
        slot: Slot,
        parent_lives: Callable[[], bool],
        *,
        servers: Servers | None = None,
        ring: Callable[[], None] | None = None,
        budgets: Budgets | None = None,
    ) -> Engine:
        """Make an engine in this process; unless given, its servers are opened here.

        Without anybody to ``ring``, who would start a successor, it does not wear.
        """
        servers, conf = servers or self.app.servers(), self.app.conf
        transport = servers.broker.transport
        transport.declare(_topology(self.queues))
        service = self.service(servers)
        return Engine(
            Plan(
                node=self.node,
                queues=[queue.name for queue in self.queues],
                lanes=self._lanes,
                lease=taken_for(self._lease),
                window=0.0 if conf.worker_disable_prefetch else conf.worker_window,
                parent_lives=parent_lives,
                max_tasks=None if ring is None else conf.worker_max_tasks_per_child,
                max_memory=None if ring is None else conf.worker_max_memory_per_child,
                ring=ring or (lambda: None),
            ),
            service,
            transport=transport,
            committer=servers.committer,
            slot=slot,
            rates=_rates(service.tasks, budgets, self._clock),
            joiner=self.joiner(service, servers),
        )

    def begin(self) -> None:
        """Be told that tasks will run in this process."""
        self._options.on_start()

    def make_node(self, board: Board, on_look: Callable[[], None] = lambda: None) -> Node:
        """Make the node in this process; it calls ``on_look`` at least every second."""
        servers = self.app.servers()
        record = {
            "pid": os.getpid(),
            "queues": [queue.name for queue in self.queues],
            "tasks": sorted(self.app.tasks),
            "concurrency": self.concurrency,
            "pool": self.pool,
        }
        return Node(
            NodePlan(
                self.node,
                board,
                self._lease,
                record,
                on_look,
                lanes=self._lanes,
                ends_processes=self._in_processes,
                beside=self._options.beside and self._options.beside(self.node),
                control=servers.control_exchange,
            ),
            transport=servers.broker.transport,
            ledger=servers.ledger,
            bus=servers.broker.bus if self.app.conf.worker_enable_remote_control else None,
            joiner=self.joiner(self.service(servers), servers),
            warnings=servers.warnings,
            relays=_relays(self.queues, servers.broker),
        )

    def service(self, servers: Servers | None = None) -> Service:
        """Make what runs one delivery at a time."""
        servers = servers or self.app.servers()
        ordered = servers.broker.transport.capabilities.commit == "ordered"
        policy = Policy(
            self.app.follow_up,
            worker=self.node,
            extended=self.app.conf.result_extended,
            derived_id=_derived_id if ordered else None,
            joins=servers.joins is not None,
            joins_expire=joins_expire(self.app.conf.current().values),
            whole_chain=self.app.conf.task_whole_chain if servers.joins is not None else 0,
        )
        return Service(
            self._bound_tasks(),
            policy,
            accept=accepted(self.app.conf.accept_content),
            node=self.node,
            now=self._clock.now,
            nameless=nameless(no_run, self.app.conf.current().values),
        )

    def joiner(self, service: Service, servers: Servers | None = None) -> Joiner | None:
        """Make what sends the bodies of chords, if there is a place for joins."""
        servers = servers or self.app.servers()
        if servers.joins is None:
            return None
        return Joiner(service, joins=servers.joins, committer=servers.committer)

    def _bound_tasks(self) -> dict[str, BoundTask]:
        settings = self.app.conf.current().values
        options = self._options
        return {
            name: bind(task, settings, Task, before=options.before, after=options.after)
            for name, task in self.app.tasks.items()
        }


def _rates(tasks: Mapping[str, BoundTask], budgets: Budgets | None, clock: Clock) -> Rates | None:
    limits = {name: per_second(bound.rate_limit, name) for name, bound in tasks.items()}
    limits = {name: limit for name, limit in limits.items() if limit}
    return Rates(budgets or Budgets(), limits, clock) if limits else None


def _derived_id(request: Request, number: int) -> str:
    return str(uuid.uuid5(_FOLLOW_UPS, f"{request.id} {request.retries} {number}"))


def _relays(queues: Sequence[Queue], broker: Server) -> list[Relay]:
    """Return what listens to broadcasts that would not reach these queues."""
    bus, transport = broker.bus, broker.transport
    if bus is None or not bus.passes_queues_by:
        return []
    bound = [queue for queue in queues if queue.exchange.type == "fanout"]
    return [Relay(queue, bus=bus, transport=transport) for queue in bound]


def _chosen_queues(router: Router, node: str, options: WorkerOptions) -> tuple[Queue, ...]:
    names = options.queues or router.consumed
    left = [name for name in names if name not in options.exclude]
    if not left:
        raise ImproperlyConfigured("no queue is left to consume: check -Q and -X")
    chosen = []
    for name in left:
        queue = router.queue(name)
        chosen.append(queue.queue_for(node) if isinstance(queue, Broadcast) else queue)
    return tuple(chosen)


def _topology(queues: Sequence[Queue]) -> Topology:
    exchanges = {queue.exchange.name: queue.exchange for queue in queues if queue.exchange.name}
    return Topology(exchanges=tuple(exchanges.values()), queues=tuple(queues))
