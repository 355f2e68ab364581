"""All that umbel does with asyncio: results as awaitables, and publishing from coroutines.

A program that never awaits must not pay for asyncio (``import umbel`` does not load it), and
methods like ``AsyncResult.aget`` can be defined nowhere but in their class. Both are possible
because nothing here needs the module ``asyncio``: futures, timers and hand-overs between threads
are methods of the running loop. Only finding that loop takes an import; ``running_loop`` does it,
when a coroutine already runs and asyncio is therefore loaded.

Results. A coroutine that waits is a passive waiter of the bridge: no thread per wait. Whoever leads
the bridge hands it its results and rings the bell of its loop, once for all waiters of that loop
that one read of the watch has served. New waiters go to the bridge at the end of the loop's turn:
10,000 coroutines gathered are one addition to the watch. Cancelling removes the waiter.

Publishing blocks, so a thread does it, the *courier*. Messages published during one turn of a loop
reach it together, and while it publishes, more collect: 10,000 ``adelay`` gathered are a few round
trips. Each coroutine is told of its own messages' fate. One that is cancelled before its messages
have left takes them back; once they are on their way, they are sent.

Owners. ``_LoopBell`` and ``AsyncPublisher``'s outboxes: each belongs to the thread of its loop, but
for ``ring``. Parcels go to the courier through a queue and come back by ``call_soon_threadsafe``.

Rejected: ``run_in_executor`` for publishing (the loop's default executor may be full of user code
that waits for us), a thread per call, a lazy import of this module (the same cost, less clear).
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from umbel.bridge.process import call_after_fork
from umbel.bridge.results import ResultBridge
from umbel.bridge.waiters import Arrival, Passive, late, seconds
from umbel.exceptions import MessageTooLarge, PublishError
from umbel.message import Message

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, TimerHandle

P = ParamSpec("P")
T = TypeVar("T")

#: What the courier publishes in one round trip, at most: messages, and bytes of their bodies. What
#: one coroutine publishes stays together.
MOST_MESSAGES, MOST_BYTES = 1000, 4_000_000


def running_loop() -> AbstractEventLoop:
    """Return the loop in which the calling coroutine runs."""
    import asyncio  # noqa: PLC0415 -- loaded already, for a coroutine runs; `import umbel` must not

    return asyncio.get_running_loop()


async def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function that may block in a thread of the loop's default executor."""
    context = contextvars.copy_context()
    work = partial(context.run, function, *args, **kwargs)
    return await running_loop().run_in_executor(None, work)


# --- results


async def wait(
    bridge: ResultBridge,
    task_ids: Collection[str],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 -- it names what is missing when it raises
    each: Callable[[str, bytes], None] | None = None,
) -> dict[str, bytes]:
    """Return the final metas of these tasks, once all have one. See ``ResultBridge.wait``."""
    waiter = _Coroutine(bridge, task_ids, eager=each is not None)
    missing = len(waiter.wanted)
    finals: dict[str, bytes] = {}
    try:
        waiter.enter(timeout)
        while len(finals) < missing:
            for task_id, meta, final in await waiter.receive():
                if final:
                    finals[task_id] = meta
                if each is not None:
                    each(task_id, meta)
    finally:
        waiter.leave()
    return finals


async def follow(
    bridge: ResultBridge,
    task_ids: Collection[str],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 -- it names what is missing when it raises
) -> AsyncGenerator[list[Arrival], None]:
    """Yield what comes for these tasks, intermediate metas too, until each has a final one."""
    waiter = _Coroutine(bridge, task_ids, eager=True)
    try:
        waiter.enter(timeout)
        while waiter.wanted or waiter.fresh:
            yield await waiter.receive()
    finally:
        waiter.leave()


class _LoopBell:
    """Wakes the waiters of one event loop, and brings new ones to the bridge; both in batches."""

    __slots__ = ("_bridge", "_count", "_entering", "loop")

    def __init__(self, bridge: ResultBridge, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._bridge = bridge
        self._entering: dict[_Coroutine, None] = {}
        self._count = 0

    def enter(self, waiter: _Coroutine) -> None:
        """Let the bridge know of this waiter at the end of the loop's turn."""
        if not self._entering:
            self.loop.call_soon(self._enter_all)
        self._entering[waiter] = None
        self._count += 1

    def _enter_all(self) -> None:
        entering, self._entering = self._entering, {}
        if entering:
            self._bridge.enter(*entering)

    def leave(self, waiter: _Coroutine) -> None:
        if waiter in self._entering:
            del self._entering[waiter]
        elif waiter.wanted or self._bridge.waits_for(waiter):
            self._bridge.leave(waiter)
        self._count -= 1
        if self._count == 0:
            self._bridge.bells.pop(self.loop, None)

    def ring(self, waiters: Sequence[Passive]) -> None:
        """Wake them in their loop. Any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            self.loop.call_soon_threadsafe(_wake, waiters)


def _bell_of_running_loop(bridge: ResultBridge) -> _LoopBell:
    loop = running_loop()
    bell: _LoopBell | None = bridge.bells.get(loop)
    if bell is None:
        bell = bridge.bells[loop] = _LoopBell(bridge, loop)
    return bell


def _wake(waiters: Iterable[Passive]) -> None:
    for waiter in waiters:
        if isinstance(waiter, _Coroutine):
            waiter.wake()


class _Coroutine(Passive):
    """The wait of a coroutine. All but what ``Waiter`` has belongs to its loop's thread."""

    __slots__ = ("_bridge", "_future", "_late", "_loop_bell", "_timeout", "_timer")

    def __init__(
        self, bridge: ResultBridge, task_ids: Collection[str], *, eager: bool = False
    ) -> None:
        self._loop_bell = _bell_of_running_loop(bridge)
        super().__init__(task_ids, self._loop_bell, eager=eager)
        self._bridge = bridge
        self._future: Future[None] | None = None
        self._timer: TimerHandle | None = None
        self._timeout: float | None = None
        self._late = False

    def enter(self, timeout: float | None) -> None:
        self._loop_bell.enter(self)
        self._timeout = timeout
        if timeout is not None:
            self._timer = self._loop_bell.loop.call_later(seconds(timeout), self._expire)

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop_bell.leave(self)

    def _expire(self) -> None:
        self._late = True
        self.wake()

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def receive(self) -> list[Arrival]:
        """Wait until something came; return it. Raises TimeoutError at the deadline."""
        while not (self.due() or self._late):
            self._future = self._loop_bell.loop.create_future()
            await self._future
        arrivals = self._bridge.take(self)
        if self._late and not arrivals:
            arrivals = await call(self._bridge.look, self)
            if not arrivals:
                raise late(self, self._timeout, self._bridge.store.caveat)
        return arrivals


# --- publishing


class Publish(Protocol):
    """What publishes: ``Publisher.publish``."""

    def __call__(
        self,
        messages: Sequence[Message],
        routes: Sequence[Any] = (),
        *,
        deadline_in: float | None = None,
        policy: Any = None,
    ) -> None:
        """Store all messages, or raise."""
        ...


class AsyncPublisher:
    """Publishes for coroutines, many calls in one round trip. Thread- and fork-safe."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._begin()
        call_after_fork(self._begin)

    def _begin(self) -> None:
        """Begin with nothing: at first, and in a forked child, whose parent sends what waited."""
        #: What was published in the current turn of each loop.
        self._outboxes: dict[AbstractEventLoop, list[_Parcel]] = {}
        self._parcels: SimpleQueue[list[_Parcel]] = SimpleQueue()
        self._courier: threading.Thread | None = None
        self._starting = threading.Lock()

    async def publish(
        self,
        messages: Sequence[Message],
        routes: Sequence[Any] = (),
        *,
        deadline_in: float | None = None,
        policy: Any = None,
    ) -> None:
        """Publish; on return all are stored. Raises what ``Publisher.publish`` raises for them."""
        loop = running_loop()
        future: Future[None] = loop.create_future()
        parcel = _Parcel(loop, future, messages, routes, (deadline_in, policy))
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = self._outboxes[loop] = []
            loop.call_soon(self._send, loop)
        outbox.append(parcel)
        await future

    def _send(self, loop: AbstractEventLoop) -> None:
        self._parcels.put(self._outboxes.pop(loop))
        if self._courier is None:
            with self._starting:
                if self._courier is None:
                    run = self._deliver_for_ever
                    self._courier = threading.Thread(target=run, name="umbel-publish", daemon=True)
                    self._courier.start()

    def _deliver_for_ever(self) -> None:
        waiting: deque[_Parcel] = deque()
        while True:
            if not waiting:
                waiting.extend(self._parcels.get())
            with suppress(Empty):
                while len(waiting) < MOST_MESSAGES:
                    waiting.extend(self._parcels.get_nowait())
            load = _load(waiting)
            while load:
                load = self._deliver(load)

    def _deliver(self, load: list[_Parcel]) -> list[_Parcel]:
        """Publish a load and tell its senders; return what must be sent once more."""
        error: Exception | None = None
        try:
            self._publish(
                [message for parcel in load for message in parcel.messages],
                list({id(route): route for parcel in load for route in parcel.routes}.values()),
                deadline_in=load[0].terms[0],
                policy=load[0].terms[1],
            )
        except Exception as raised:  # noqa: BLE001 -- it belongs to the coroutines that published
            error = raised
        fates = [(parcel, parcel.share_of(error)) for parcel in load]
        again: list[_Parcel] = []
        if isinstance(error, MessageTooLarge):  # nothing was sent: the others must not suffer
            again = [parcel for parcel, fate in fates if fate is None]
            fates = [(parcel, fate) for parcel, fate in fates if fate is not None]
            if not fates:  # it names none of them: so that this ends, it is everybody's
                fates, again = [(parcel, error) for parcel in again], []
        _tell(fates)
        return again


class _Parcel:
    """The messages of one call, and the future of who awaits that they are stored."""

    __slots__ = ("future", "loop", "messages", "routes", "terms")

    def __init__(
        self,
        loop: AbstractEventLoop,
        future: Future[None],
        messages: Sequence[Message],
        routes: Sequence[Any],
        terms: tuple[float | None, Any],
    ) -> None:
        self.loop = loop
        self.future = future
        self.messages = messages
        self.routes = routes
        #: What must be alike for parcels to go together: deadline_in and policy.
        self.terms = terms

    def share_of(self, error: Exception | None) -> Exception | None:
        """Return what became of these messages, when the whole load met this error."""
        if not isinstance(error, PublishError) or not error.refused:
            return error
        mine = {message.id for message in self.messages}
        refused = [each for each in error.refused if each[0] in mine]
        if not refused:
            return None
        own = type(error)(error.message, refused)
        own.__cause__ = error.__cause__
        return own


def _load(waiting: deque[_Parcel]) -> list[_Parcel]:
    """Take what goes in the next round trip; those who gave up are left out."""
    load: list[_Parcel] = []
    count = size = 0
    while waiting:
        parcel = waiting[0]
        count += len(parcel.messages)
        size += sum(len(message.body) for message in parcel.messages)
        full = count > MOST_MESSAGES or size > MOST_BYTES
        if load and (full or parcel.terms != load[0].terms):
            break
        waiting.popleft()
        if not parcel.future.cancelled():
            load.append(parcel)
    return load


def _tell(fates: Iterable[tuple[_Parcel, Exception | None]]) -> None:
    by_loop: dict[AbstractEventLoop, list[tuple[_Parcel, Exception | None]]] = {}
    for parcel, fate in fates:
        by_loop.setdefault(parcel.loop, []).append((parcel, fate))
    for loop, told in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            loop.call_soon_threadsafe(_settle, told)


def _settle(told: Iterable[tuple[_Parcel, Exception | None]]) -> None:
    for parcel, error in told:
        if parcel.future.done():  # cancelled meanwhile
            continue
        if error is None:
            parcel.future.set_result(None)
        else:
            parcel.future.set_exception(error)
