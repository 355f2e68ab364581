"""The node: the one process of a worker that speaks for all its children.

It renews their leases, so that a task which holds the interpreter lock for a minute does not cost
its process what it holds; it buries the dead: charges what was running, gives back the rest; it
recovers what other machines lost; it sends the bodies of chords that they left; it orders the end
of what runs and shall not (``terminating``); it keeps the node's record in the ledger, which says
what each process runs; it obeys remote control (``orders``). While something runs it looks for what
shall end and tells its record every second; all else is done as often as leases need it.

What a dead worker held shall run elsewhere within ``worker_lease`` of its death, not at some time
after that. So a lease is taken for a little less (``taken_for``), and every node looks for those
that have ended as often as it looks at its board. It is a look only: most find nothing.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from umbel import telemetry
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TransportError
from umbel.servers.seams import Bus, DeadConsumer, Ledger, Transport
from umbel.wire.control import EXCHANGE
from umbel.worker.board import LIVING, Board, Slot, SlotState
from umbel.worker.joiner import Joiner
from umbel.worker.orders import Orders
from umbel.worker.relay import Relay
from umbel.worker.terminating import Terminator

logger = logging.getLogger("umbel.worker")

#: Seconds between two looks at the board, in which nothing may have changed.
LOOK = 1.0
#: Looks for ended leases in the time of one, unless they would be rarer than looks at the board.
LOOKS = 15
#: Running tasks of one process that its record names, the longest running first.
MOST_TOLD = 100

_monotonic = SYSTEM_CLOCK.monotonic


#: The consumer of a living process, and whether it runs something.
_Sight = tuple[str, bool]


class Beside(Protocol):
    """What runs in a thread beside the node: a scheduler."""

    def run(self) -> object:
        """Run until stopped."""
        ...

    def stop(self) -> None:
        """End soon. Any thread."""
        ...


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What a node speaks for."""

    name: str
    board: Board
    lease: float
    record: dict[str, Any]
    #: Called in each look at the board.
    on_look: Callable[[], None] = lambda: None
    #: Threads of each process that run synchronous tasks.
    lanes: int = 1
    #: There is a supervisor that can end a process, which runs one task in its main thread.
    ends_processes: bool = False
    beside: Beside | None = None
    #: The exchange that remote control comes through.
    control: str = EXCHANGE


def taken_for(lease: float) -> float:
    """Return for how many seconds leases are taken, that all may be over within ``lease``.

    Two looks less: one until the end is noticed, one for all that follows.
    """
    return lease - 2 * _pause(lease)


def _pause(lease: float) -> float:
    """Return the seconds between two looks for leases that have ended."""
    return min(lease / LOOKS, LOOK)


class Node:
    """Owned by the thread in ``run``; ``wake`` and ``stop`` may be called from any."""

    def __init__(
        self,
        plan: NodePlan,
        *,
        transport: Transport,
        ledger: Ledger | None,
        bus: Bus | None = None,
        joiner: Joiner | None = None,
        warnings: Callable[[], Iterable[str]] = tuple,
        relays: Sequence[Relay] = (),
    ) -> None:
        self._plan = plan
        self._transport = transport
        self._ledger = ledger
        self._relays = relays
        self._orders = None
        if bus is not None:
            self._orders = Orders(
                plan.name, bus=bus, exchange=plan.control, ledger=ledger, look=self.wake
            )
        self._joiner = joiner
        self._read_fd, self._write_fd = os.pipe()
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)
        self._stopping = False
        self._terminator = Terminator(
            plan.board, lanes=plan.lanes, ends_processes=plan.ends_processes
        )
        #: Asked once, as soon as the server answers.
        self._warnings: Callable[[], Iterable[str]] | None = warnings
        self._turn_at = self._recover_at = 0.0
        self._pause = _pause(plan.lease)
        #: Tasks that processes have ended which are buried.
        self._processed = 0
        #: What the last turn saw at work.
        self._seen: list[_Sight] = []

    def wake(self) -> None:
        """Make it look at the board now. Any thread, signal handlers too."""
        try:
            os.write(self._write_fd, b"w")
        except BlockingIOError:
            return  # it is awake already

    def stop(self) -> None:
        """End after the present turn."""
        self._stopping = True
        self.wake()

    def run(self, parent_lives: Callable[[], bool], wake_fd: int | None) -> None:
        """Renew, bury and recover until stopped; ``wake_fd`` is readable when there is a grave."""
        with _running(self._plan.beside, patience=self._plan.lease):
            self._run(parent_lives, wake_fd)

    def _run(self, parent_lives: Callable[[], bool], wake_fd: int | None) -> None:
        for relay in self._relays:
            relay.start()
        self._plan.board.node_trouble.end()  # what a node before this one said
        if self._orders is not None:
            self._orders.start()
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_fd, selectors.EVENT_READ)
            if wake_fd is not None:
                selector.register(wake_fd, selectors.EVENT_READ)
            while not self._stopping and parent_lives():
                self._plan.on_look()
                if self._is_due():
                    self._turn()
                self._recover()  # after that: ours may have been stopped, too
                for key, _ in selector.select(self._pause):
                    self._turn_at = 0.0
                    if not os.read(key.fd, 4096):  # the supervisor's end is closed: it is dead
                        self._stopping = True
        self._retire()

    def _is_due(self) -> bool:
        sight = self._sight()
        changes = sight != self._seen or any(runs for _, runs in sight)
        return changes or _monotonic() >= self._turn_at

    def _sight(self) -> list[_Sight]:
        living = self._plan.board.in_state(*LIVING)
        return [(slot.consumer_id, slot.runs) for slot in living]

    def _turn(self) -> None:
        self._seen = self._sight()
        try:
            if _monotonic() >= self._turn_at:
                self._keep_house()
            if self._ledger is not None:
                self._terminator.look(self._ledger)
                self._announce(self._ledger)
            self._plan.board.node_trouble.end()
        except TransportError as error:
            if not self._plan.board.node_trouble.since:
                self._plan.board.node_trouble.begin(_monotonic(), str(error))

    def _keep_house(self) -> None:
        self._bury()
        self._renew()
        if self._joiner is not None:
            self._joiner.sweep()
        self._warn()
        self._turn_at = _monotonic() + self._plan.lease / 3

    def _warn(self) -> None:
        if self._warnings is not None:
            for warning in self._warnings():
                logger.warning("%s", warning)
            self._warnings = None

    def _recover(self) -> None:
        """Give back what others lost, soon after their leases end."""
        if (now := _monotonic()) >= self._recover_at:
            self._recover_at = now + self._pause
            with suppress(TransportError):  # the next turn tells of it
                self._transport.recover()

    def _bury(self) -> None:
        graves = self._plan.board.in_state(SlotState.GRAVE)
        dead = [_dead_consumer(slot) for slot in graves if slot.consumer_id]
        if dead:
            count = self._transport.recover(dead)
            telemetry.emit("consumer.buried", count=len(dead), deliveries=count)
        for slot in graves:
            self._processed += slot.processed
            slot.clear()

    def _renew(self) -> None:
        living = self._plan.board.in_state(*LIVING)
        consumers = [slot.consumer_id for slot in living if slot.consumer_id]
        if consumers:
            lost = self._transport.renew(consumers, lease=taken_for(self._plan.lease))
            ready = {slot.consumer_id for slot in living if slot.state is SlotState.READY}
            if surprising := sorted(ready.intersection(lost)):  # who stops has given his up
                logger.warning("Leases were lost while nobody could renew them: %s", surprising)

    def _announce(self, ledger: Ledger) -> None:
        living = self._plan.board.in_state(*LIVING)
        record = {
            **self._plan.record,
            "processed": self._processed + sum(slot.processed for slot in self._plan.board.slots),
            "processes": [_process(slot) for slot in living],
        }
        ledger.announce(self._plan.name, record, expires_in=self._plan.lease)

    def _retire(self) -> None:
        for relay in self._relays:
            relay.stop()
        if self._orders is not None:
            self._orders.stop()
        try:
            self._bury()
            if self._ledger is not None:
                self._ledger.retire(self._plan.name)
        except TransportError as error:
            logger.warning("The node's record could not be removed; it will expire: %s", error)


@contextmanager
def _running(beside: Beside | None, *, patience: float) -> Generator[None]:
    if beside is None:
        yield
        return
    thread = threading.Thread(target=beside.run, name="umbel-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        beside.stop()
        thread.join(patience)


def _process(slot: Slot) -> dict[str, Any]:
    """Return what the record says of a process; times are wall times."""
    offset = SYSTEM_CLOCK.now() - _monotonic()
    running = sorted(slot.running(), key=lambda each: each.started)
    return {
        "pid": slot.pid,
        "consumer": slot.consumer_id,
        "processed": slot.processed,
        "running": [
            {"id": each.id, "name": each.name, "since": each.started + offset}
            for each in running[:MOST_TOLD]
        ],
        "count": len(running),
    }


def _dead_consumer(slot: Slot) -> DeadConsumer:
    running = tuple(each.id for each in slot.running())
    return DeadConsumer(slot.consumer_id, running, slot.verdict)
