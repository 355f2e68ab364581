"""The engine: what runs tasks in one process; a child process has one, solo and tests too.

``Engine.start`` begins the session with the broker and the pump's thread; ``run_here`` makes the
calling thread a lane until the engine stops; ``stop`` may come from any thread or signal handler.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from umbel import ids
from umbel.clock import SYSTEM_CLOCK
from umbel.servers.seams import Committer, Transport
from umbel.worker.board import Slot, SlotState
from umbel.worker.joiner import Joiner
from umbel.worker.lane import Lane
from umbel.worker.limits import SignalLimit, SoftLimit, ThreadLimit
from umbel.worker.pulse import Pulse
from umbel.worker.pump import Parts, Pump
from umbel.worker.rates import Rates
from umbel.worker.recycling import Allowance
from umbel.worker.service import Service
from umbel.worker.terminating import CANCEL
from umbel.worker.window import TARGET, Window

if TYPE_CHECKING:
    from umbel.worker.loop import Loop

#: Bytes of the node's name in the ids of its consumers.
MOST_OF_NODE = 90


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine is to do."""

    node: str
    queues: Sequence[str]
    #: Threads that run synchronous tasks.
    lanes: int = 1
    #: Seconds a machine may be silent before its deliveries are given to others.
    lease: float = 15.0
    #: Seconds of work to hold per lane beyond what it runs.
    window: float = TARGET
    parent_lives: Callable[[], bool] = lambda: True
    #: Tasks it may be handed, and KiB of memory it may use, before it wants a successor.
    max_tasks: int | None = None
    max_memory: int | None = None
    #: Makes the supervisor look at the board.
    ring: Callable[[], object] = lambda: None


class Engine:
    """Runs tasks until it is stopped. Made and started by one thread."""

    def __init__(
        self,
        plan: Plan,
        service: Service,
        *,
        transport: Transport,
        committer: Committer,
        slot: Slot,
        rates: Rates | None = None,
        joiner: Joiner | None = None,
    ) -> None:
        self._plan = plan
        self._service = service
        self._slot = slot
        self._pid = os.getpid()
        slot.pid = self._pid
        # The board has room for so much of the name; the rest makes the id the only one.
        node = plan.node.encode()[:MOST_OF_NODE].decode(errors="ignore")
        slot.consumer_id = f"{node}:{self._pid}:{ids.new_id()[-12:]}"
        consumer = transport.consume(plan.queues, consumer_id=slot.consumer_id, lease=plan.lease)
        self._lanes: list[Lane] = []
        self._loop: Loop | None = None
        self._pump = Pump(
            Parts(
                consumer=consumer,
                committer=committer,
                service=service,
                lanes=self._lanes,
                window=Window(lanes=plan.lanes, target=plan.window),
                make_loop=self._make_loop,
                capabilities=transport.capabilities,
                parent_lives=plan.parent_lives,
                pulse=Pulse(slot, plan.ring),
                allowance=Allowance(plan.max_tasks, plan.max_memory),
                rates=rates,
                joiner=joiner,
            )
        )
        self._threads = [threading.Thread(target=self._pump.run, name="umbel-pump")]

    def start(self, *, lane_here: bool) -> None:
        """Begin to receive. With ``lane_here`` the caller promises to call ``run_here``."""
        in_threads = self._plan.lanes - 1 if lane_here else self._plan.lanes
        if lane_here:
            self._lanes.append(self._make_lane(0, here=True))
        for index in range(self._plan.lanes - in_threads, self._plan.lanes):
            ready = threading.Event()
            thread = threading.Thread(
                target=self._run_lane, args=(index, ready), name=f"umbel-lane-{index}", daemon=True
            )
            thread.start()
            ready.wait()
        self._slot.busy_since = self._slot.turned_at = SYSTEM_CLOCK.monotonic()
        for thread in self._threads:
            thread.start()
        if self._slot.state is not SlotState.STOPPING:
            self._slot.state = SlotState.READY

    def run_here(self) -> None:
        """Run synchronous tasks in this thread, with signals, until the engine stops."""
        self._lanes[0].run()

    def wake(self) -> None:
        """Look now for what has become due. Any thread."""
        self._pump.ring()

    def stop(self, deadline: float) -> None:
        """Receive no more; end when what runs is done, or at this monotonic time. Signal-safe."""
        if self._slot.state is not SlotState.SPENT:
            self._slot.state = SlotState.STOPPING
        self._pump.stop(deadline)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything held was committed or given back; tell whether it was."""
        deadline = None if timeout is None else SYSTEM_CLOCK.monotonic() + timeout
        for thread in self._threads:
            left = None if deadline is None else max(deadline - SYSTEM_CLOCK.monotonic(), 0.0)
            thread.join(left)
        return not any(thread.is_alive() for thread in self._threads)

    def _run_lane(self, index: int, ready: threading.Event) -> None:
        lane = self._make_lane(index, here=False)
        self._lanes.append(lane)
        ready.set()
        lane.run()

    def _make_lane(self, index: int, *, here: bool) -> Lane:
        main = here and threading.current_thread() is threading.main_thread()
        limit: SoftLimit = SignalLimit() if main else ThreadLimit()
        return Lane(
            index, self._pump.desk, self._service, slot=self._slot, limit=limit, pid=self._pid
        )

    def cancel_ordered(self) -> None:
        """Cancel the coroutines whose end the board orders. Signal-safe."""
        for task in self._slot.running():
            if task.ordered == CANCEL and self._loop is not None:
                self._loop.cancel(task.id)

    def _make_loop(self) -> Loop:
        self._loop = loop_class()(
            self._pump.desk,
            self._service,
            slot=self._slot,
            first_entry=self._plan.lanes,
            pid=self._pid,
        )
        return self._loop


def loop_class() -> type[Loop]:
    """Import what runs coroutine tasks: asyncio is 3 MB and 40 ms that many workers never need."""
    from umbel.worker.loop import Loop  # noqa: PLC0415 -- that is what it is for

    return Loop
