"""From an application and options to a running worker: here the parts are put together."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from umbel import ids, signals
from umbel.bound import AfterHook, BeforeHook, BoundTask, bind, nameless
from umbel.canvas.advance import Policy
from umbel.canvas.plan import Call, joins_expire
from umbel.clock import Clock
from umbel.context import Servers
from umbel.exceptions import ImproperlyConfigured
from umbel.message import Message
from umbel.opened import clock_of
from umbel.routing import Broadcast, Router, direct_queue
from umbel.serializers import accepted
from umbel.task import Task
from umbel.topology import Queue, Topology
from umbel.wire.task import Request
from umbel.worker.autoscale import Autoscaler
from umbel.worker.board import Board, Slot, SlotState
from umbel.worker.child import ChildPlan, run_child
from umbel.worker.cpus import available_cpus
from umbel.worker.engine import Engine, Plan
from umbel.worker.joiner import Joiner
from umbel.worker.node import Node, NodePlan
from umbel.worker.processes import ParentLives, Wait
from umbel.worker.rates import Budgets, Rates, per_second
from umbel.worker.service import Service, no_run
from umbel.worker.supervisor import Supervisor, SupervisorPlan

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
    #: None = as configured; 0 = no limit.
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    #: Compiled into every task, for logs; nothing = they cost nothing.
    before: tuple[BeforeHook, ...] = ()
    after: tuple[AfterHook, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a supervisor must know of a worker; all that it needs no application for."""

    node: str
    #: Children that run tasks.
    processes: int
    #: Tasks that one child runs at a time, at most.
    entries: int
    #: Seconds that running tasks have at a warm shutdown.
    patience: float
    #: Least processes, if their number follows the load; 0 = it does not.
    least: int = 0


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
        self._max_tasks = _given(options.max_tasks_per_child, app.conf.worker_max_tasks_per_child)
        self._max_memory = _given(
            options.max_memory_per_child, app.conf.worker_max_memory_per_child
        )
        self._in_processes = self.pool == "prefork"
        if self.least and not self._in_processes:
            raise ImproperlyConfigured("autoscale needs the pool prefork: it starts processes")
        self._lanes = self.concurrency if self.pool == "threads" else 1
        self._entries = self._lanes + app.conf.worker_async_concurrency

    def run(self, on_ready: Callable[[], None]) -> int:
        """Run until a signal ends it; return the exit code."""
        if self.pool == "solo":
            return self._run_solo(on_ready)
        self.app.servers()  # drivers are imported here, once for all children; nothing connects yet
        return supervise(self.shape, lambda: self, on_ready)

    @property
    def shape(self) -> Shape:
        """What its supervisor must know."""
        return Shape(
            node=self.node,
            processes=self.concurrency if self._in_processes else 1,
            entries=self._entries,
            patience=self._patience,
            least=self.least,
        )

    def make_engine(
        self,
        slot: Slot,
        parent_lives: Callable[[], bool],
        *,
        servers: Servers | None = None,
        ring: Callable[[], None] = lambda: None,
        budgets: Budgets | None = None,
    ) -> Engine:
        """Make an engine in this process; unless given, its servers are opened here."""
        servers, conf = servers or self.app.servers(), self.app.conf
        transport = servers.broker.transport
        transport.declare(_topology(self.queues))
        service = self.service(servers)
        return Engine(
            Plan(
                node=self.node,
                queues=[queue.name for queue in self.queues],
                lanes=self._lanes,
                lease=self._lease,
                window=0.0 if conf.worker_disable_prefetch else conf.worker_window,
                parent_lives=parent_lives,
                max_tasks=self._max_tasks,
                max_memory=self._max_memory,
                ring=ring,
            ),
            service,
            transport=transport,
            committer=servers.committer,
            slot=slot,
            rates=_rates(service.tasks, budgets, self._clock),
            joiner=self.joiner(service, servers),
        )

    def make_node(self, board: Board) -> Node:
        """Make the node in this process."""
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
                lanes=self._lanes,
                ends_processes=self._in_processes,
            ),
            transport=servers.broker.transport,
            ledger=servers.ledger,
            bus=servers.broker.bus if self.app.conf.worker_enable_remote_control else None,
            joiner=self.joiner(self.service(servers), servers),
            warnings=servers.warnings,
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

    def child_main(
        self,
        slot: Slot,
        ring_fd: int,
        parent_lives: ParentLives,
        wait: Wait | None,
        *,
        budgets: Budgets,
    ) -> None:
        """Be a child of the supervisor; does not return."""

        def ring() -> None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # awake, or gone
                os.write(ring_fd, b"r")

        plan = ChildPlan(
            parent_lives=parent_lives,
            make_engine=functools.partial(self.make_engine, ring=ring, budgets=budgets),
            patience=self._patience,
            on_ready=ring,
            on_start=lambda: signals.worker_process_init.send(None),
            on_stop=lambda: signals.worker_process_shutdown.send(None, pid=os.getpid(), exitcode=0),
            wait_for_turn=wait,
        )
        run_child(plan, slot)

    def node_main(self, board: Board, wake_fd: int, parent_lives: ParentLives) -> None:
        """Be the node of the supervisor's children."""
        node = self.make_node(board)
        # TERM may come to the whole group; the node ends when the supervisor closes its pipe.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        node.run(parent_lives, wake_fd)

    def _run_solo(self, on_ready: Callable[[], None]) -> int:
        board = Board(1, entries=self._entries)
        node = self.make_node(board)
        thread = threading.Thread(
            target=node.run, args=(lambda: True, None), name="umbel-node", daemon=True
        )
        slot = board.slots[0]
        slot.state = SlotState.STARTING

        def stop_node() -> None:
            node.stop()
            thread.join(self._lease)
            signals.worker_shutdown.send(self)

        plan = ChildPlan(
            parent_lives=lambda: True,
            make_engine=self.make_engine,
            patience=self._patience,
            on_ready=on_ready,
            on_start=thread.start,
            on_stop=stop_node,
            interruptible=True,
        )
        run_child(plan, slot)
        return 0


def supervise(shape: Shape, make_worker: Callable[[], Worker], on_ready: Callable[[], None]) -> int:
    """Run a worker's processes until a signal ends them; return the exit code.

    ``make_worker`` is called in each forked process.
    """
    board = Board(2 * shape.processes + 4, entries=shape.entries)
    budgets = Budgets()
    plan = SupervisorPlan(
        board=board,
        concurrency=shape.processes,
        child_main=lambda *given: make_worker().child_main(*given, budgets=budgets),
        node_main=lambda *given: make_worker().node_main(board, *given),
        patience=shape.patience,
        on_ready=on_ready,
        autoscaler=Autoscaler(shape.processes, shape.least) if shape.least else None,
    )
    return Supervisor(plan).run()


def _rates(tasks: Mapping[str, BoundTask], budgets: Budgets | None, clock: Clock) -> Rates | None:
    limits = {name: per_second(bound.rate_limit, name) for name, bound in tasks.items()}
    limits = {name: limit for name, limit in limits.items() if limit}
    return Rates(budgets or Budgets(), limits, clock) if limits else None


def _given(option: int | None, configured: int | None) -> int | None:
    return (configured if option is None else option) or None


def _derived_id(request: Request, number: int) -> str:
    return str(uuid.uuid5(_FOLLOW_UPS, f"{request.id} {request.retries} {number}"))


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
