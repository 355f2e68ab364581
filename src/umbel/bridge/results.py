"""From a result store's one watch to all who wait: threads, coroutines and callbacks.

A store's ``Watch`` is a session with one owner: it is told of results and can follow any number of
tasks. A program has any number of threads and coroutines that wait for some of them. The bridge
lets all of them share one watch.

Leader and followers. The thread that waits and finds nobody reading becomes the *leader*: it reads
the watch itself, so a lone ``get()`` costs no change of threads. Whoever comes later is a
*follower* and sleeps. The leader hands out what it reads, to itself and to others, and wakes only
those for whom it matters. When the leader has what it wanted, or gives up, it steps down and
appoints a sleeper. A program in which only threads wait never starts another one.

Waiters without a thread of their own (coroutines, callbacks) are *passive*. While there are any, a
background thread, the *reader*, waits on their behalf and leads or sleeps like any other.

Owners. The tables (who waits for what, who leads, who sleeps) belong to the mutex, which is never
held while anything blocks. The watch belongs to the leader alone: it opens it, tells it which tasks
to follow and which no more, receives. Others only put ids into ``_new`` and ``_gone`` and wake it.
A waiter's ``fresh`` and ``wanted`` belong to the mutex too; its thread looks at them without it
only to see whether there is anything to take.

Guarantees. Every final result is handed to every waiter that wanted it when it was handed out,
once. What a leader had read but not handed out when an exception struck it (a signal handler's,
say) is read again: its watch is closed, and the next leader's new one reports what is stored. So it
is when the connection breaks; then the leader tries again, with back-off, for ``patience`` seconds
before it raises. Nothing is kept of tasks that nobody waits for. A forked child begins with
nothing; it keeps the parent's watch but never touches it, because to close a connection that two
processes hold would disturb the parent.

Rejected: a thread that always reads (two changes of threads for every ``get()``), one condition
variable (wakes thousands to serve one), a watch for each waiting thread (a connection each), a lock
held while reading (nobody could be chosen to go on, and who is woken first would be chance).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import suppress
from typing import Any

from umbel import backoff
from umbel.bridge.process import call_after_fork, call_at_exit
from umbel.bridge.waiters import Arrival, Bell, Passive, Sleeper, Waiter, late, seconds
from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import BackendError, ConnectionLost, UmbelError
from umbel.servers.seams import ResultStore, Watch
from umbel.states import READY_STATES
from umbel.telemetry import emit
from umbel.wire.result import decode_meta

#: Seconds of one read when nobody has a deadline. Whoever needs the leader earlier wakes it.
_LONG = 3600.0
#: Seconds between attempts to reach a lost server: at first, at most.
_RETRY, _SLOWEST_RETRY = 0.05, 2.0
#: Seconds that closing waits for the reader, which only has to notice it.
_LAST_MOMENT = 2.0
#: How metas begin that the json serializer made: enough to see their state without decoding them.
_PLAIN = b'{"status": "'
_PLAIN_FINAL = tuple(_PLAIN + state.encode() + b'"' for state in sorted(READY_STATES))


class ResultBridge:
    """Shares one watch of a result store among all who wait. Thread- and fork-safe."""

    def __init__(
        self,
        store: ResultStore,
        *,
        decode: Callable[[bytes], dict[str, Any]] = decode_meta,
        patience: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.store = store
        #: Reads a meta as this application's result serializer wrote it.
        self.decode = decode
        #: For ``aio``: the bell of each event loop in which somebody waits.
        self.bells: dict[Any, Any] = {}
        self._patience = patience
        self._monotonic = clock.monotonic
        self._inherited: list[Watch] = []
        self._begin()
        call_after_fork(self._begin_in_child)
        call_at_exit(self.close)

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: dict[str, tuple[Sleeper | Passive, ...]] = {}
        #: What the leader has still to tell the watch: to follow these, and these no more.
        self._new: set[str] = set()
        self._gone: set[str] = set()
        self._watch: Watch | None = None
        self._leader: Sleeper | None = None
        #: Threads that wait while another leads, in the order in which they fell asleep.
        self._asleep: dict[Sleeper, None] = {}
        self._passive: set[Passive] = set()
        self._reader: _Reader | None = None
        self._lost_at: float | None = None
        self._attempts = 0

    def _begin_in_child(self) -> None:
        if self._watch is not None:
            self._inherited.append(self._watch)
        self.bells.clear()
        self._begin()

    # --- for threads that wait

    def wait(
        self,
        task_ids: Collection[str],
        *,
        timeout: float | None = None,
        each: Callable[[str, bytes], None] | None = None,
    ) -> dict[str, bytes]:
        """Return the final metas of these tasks, once all have one.

        ``each`` is called, in this thread, with every meta as it comes, intermediate ones too; what
        it raises ends the wait. Raises TimeoutError, and ConnectionLost when the store could not be
        reached for longer than the bridge's patience.
        """
        waiter = Sleeper(task_ids, eager=each is not None)
        missing = len(waiter.wanted)
        finals: dict[str, bytes] = {}
        deadline = self._deadline(timeout)
        try:
            self.enter(waiter)
            while len(finals) < missing:
                arrivals = self.receive(waiter, deadline) or self.look(waiter)
                if not arrivals:
                    raise late(waiter, timeout, self.store.caveat)
                for task_id, meta, final in arrivals:
                    if final:
                        finals[task_id] = meta
                    if each is not None:
                        each(task_id, meta)
        finally:
            try:
                self.leave(waiter)
            except BaseException:
                self.leave(waiter)  # an exception struck in the middle of it
                raise
        return finals

    def follow(
        self, task_ids: Collection[str], *, timeout: float | None = None
    ) -> Generator[list[Arrival], None, None]:
        """Yield what comes for these tasks, intermediate metas too, until each has a final one.

        Close it if you leave it early. Raises what ``wait`` raises.
        """
        waiter = Sleeper(task_ids, eager=True)
        deadline = self._deadline(timeout)
        try:
            self.enter(waiter)
            while waiter.wanted or waiter.fresh:
                arrivals = self.receive(waiter, deadline) or self.look(waiter)
                if not arrivals:
                    raise late(waiter, timeout, self.store.caveat)
                yield arrivals
        finally:
            try:
                self.leave(waiter)
            except BaseException:
                self.leave(waiter)  # an exception struck in the middle of it
                raise

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._monotonic() + seconds(timeout)

    def enter(self, *waiters: Sleeper | Passive) -> None:
        """Follow their tasks from now on, until each is final or they leave."""
        now = self._monotonic()
        with self._mutex:
            for waiter in waiters:
                waiter.since = now
                self._seat(waiter)
            if self._leader is not None and self._watch is not None:
                self._watch.wake()
            started = self._call_reader(now) if self._passive else None
        if started is not None:
            started.start()

    def _seat(self, waiter: Sleeper | Passive) -> None:
        own, waiting = (waiter,), self._waiting
        if waiting.keys().isdisjoint(waiter.wanted):
            waiting.update(dict.fromkeys(waiter.wanted, own))
        else:
            waiting.update({each: waiting.get(each, ()) + own for each in waiter.wanted})
        self._new |= waiter.wanted
        if isinstance(waiter, Passive) and waiter.wanted:
            self._passive.add(waiter)

    def receive(self, waiter: Sleeper, deadline: float | None) -> list[Arrival]:
        """Wait until something came for this waiter; return it, or nothing at the deadline.

        For the waiter's own thread. Between two calls it holds nothing that others need.
        """
        intact = False
        try:
            while not waiter.due() and (left := self._left(deadline)) > 0:
                if self._leads(waiter):
                    self._read(waiter, left)
                else:
                    waiter.sleep(left)
            if self._leader is waiter and not self._asleep:
                self._forget_gone()
            intact = True
        finally:
            try:
                self._step_down(waiter, intact=intact)
            except BaseException:
                self._step_down(waiter, intact=False)  # an exception struck in the middle of it
                raise
        return self.take(waiter)

    def _left(self, deadline: float | None) -> float:
        return _LONG if deadline is None else min(deadline - self._monotonic(), _LONG)

    def take(self, waiter: Waiter) -> list[Arrival]:
        """Return what came for a waiter, perhaps nothing. Raises why nothing more will come."""
        with self._mutex:
            arrivals, waiter.fresh = waiter.fresh, []
        if waiter.error is not None and not arrivals:
            raise waiter.error
        return arrivals

    def look(self, waiter: Waiter) -> list[Arrival]:
        """Return the final metas among what is stored, for one that can wait no longer."""
        stored = self.store.get(list(waiter.wanted)) if waiter.wanted else {}
        self._hand_out([each for each in stored.items() if self.is_final(each[1])])
        return self.take(waiter)

    def leave(self, *waiters: Sleeper | Passive) -> None:
        """Follow no more what only these wanted. To be called after every ``enter``; idempotent."""
        with self._mutex:
            for waiter in waiters:
                self._unseat(waiter)
            self._release_reader()
            reader = self._reader
            if reader is not None and reader is self._leader and reader.due() and self._watch:
                self._watch.wake()
        self._tidy()

    def _unseat(self, waiter: Sleeper | Passive) -> None:
        if isinstance(waiter, Passive):
            self._passive.discard(waiter)
        for task_id in waiter.wanted:
            present = self._waiting.get(task_id, ())
            rest = tuple(each for each in present if each is not waiter)
            if rest:
                self._waiting[task_id] = rest
            elif present:
                del self._waiting[task_id]
                self._new.discard(task_id)
                self._gone.add(task_id)

    def _tidy(self) -> None:
        """Tell the watch which tasks to follow no more, if no leader is going to."""
        if self._leader is not None or not self._gone:
            return
        caretaker, intact = Sleeper(), False
        try:
            if self._leads(caretaker):
                self._forget_gone()
            intact = True
        finally:
            try:
                self._step_down(caretaker, intact=intact)
            except BaseException:
                self._step_down(caretaker, intact=False)  # as in `receive`
                raise

    def _forget_gone(self) -> None:
        """Tell the watch, as its leader. If the connection is lost, it will not ask again."""
        if self._watch is None:
            with self._mutex:
                self._gone.clear()
        elif self._gone:
            try:
                self._synced()
            except ConnectionLost:
                self._drop_watch()

    def _drop_watch(self) -> None:
        with self._mutex:
            lost, self._watch = self._watch, None
        if lost is not None:
            _close(lost)

    # --- who leads

    def _leads(self, waiter: Sleeper) -> bool:
        """Take the lead if nobody has it; else be counted among the sleepers."""
        with self._mutex:
            if self._leader is None:
                self._leader = waiter
            if self._leader is waiter:
                self._asleep.pop(waiter, None)
                return True
            if waiter.due():
                waiter.rouse()  # it came in this moment: its sleep ends at once
            else:
                self._asleep[waiter] = None
            return False

    def _step_down(self, waiter: Sleeper, *, intact: bool) -> None:
        """Neither lead nor sleep any more. What it was reading is spoilt unless ``intact``."""
        spoilt = None
        with self._mutex:
            self._asleep.pop(waiter, None)
            if self._leader is waiter:
                if not intact or waiter.error is not None:
                    spoilt, self._watch = self._watch, None
                    self._rouse_all()
                self._appoint()
        if spoilt is not None:
            _close(spoilt)

    def _appoint(self) -> None:
        """Let the one lead who has slept longest, of those who have something to wait for.

        In this order: if an exception strikes in between, it is awake, or nobody was appointed.
        """
        if not self._asleep:
            self._leader = None
            return
        chosen = next((each for each in self._asleep if not each.due()), None)
        if chosen is not None:
            chosen.rouse()
        self._leader = chosen
        self._asleep.pop(chosen, None)  # type: ignore[arg-type]

    def _rouse_all(self) -> None:
        """Let everybody look: some may have been handed something and not been told."""
        for sleeper in self._asleep:
            sleeper.rouse()
        for waiter in self._passive:
            waiter.bell.ring((waiter,))

    # --- what the leader does

    def _read(self, leader: Sleeper, timeout: float) -> None:
        """Receive once and hand out what came. If the server is lost, pause instead."""
        try:
            reports = self._synced().receive(timeout)
        except ConnectionLost as error:
            self._endure(leader, timeout, error)
            return
        if self._lost_at is not None:
            emit("results.found_again", after=self._monotonic() - self._lost_at)
            self._lost_at, self._attempts = None, 0
        if reports:
            self._hand_out(reports)

    def _synced(self) -> Watch:
        """Return the watch, following what is waited for and nothing else."""
        watch = self._watch
        if watch is None:
            watch = self._open()
        with self._mutex:
            new = list(self._new & self._waiting.keys()) if self._new else ()
            gone = list(self._gone)
            self._new.clear()
            self._gone.clear()
        if gone:
            watch.discard(gone)
        if new:
            watch.add(new)
        return watch

    def _open(self) -> Watch:
        """Open a watch. It is known before the ids are taken: who comes later wakes it."""
        watch = self.store.watch()
        with self._mutex:
            self._watch = watch
            self._new.update(self._waiting)
            self._gone.clear()
        return watch

    def _hand_out(self, reports: Iterable[tuple[str, bytes]]) -> None:
        with self._mutex:
            passive: list[Passive] = []
            for waiter in self._hand_to_waiters(reports):
                if not waiter.due():
                    continue
                if isinstance(waiter, Passive):
                    passive.append(waiter)
                elif waiter in self._asleep:
                    waiter.rouse()
                    del self._asleep[waiter]
            if passive:
                self._tell_passive(passive)
                self._release_reader()

    def _tell_passive(self, waiters: list[Passive]) -> None:
        by_bell: dict[Bell, list[Passive]] = {}
        for waiter in waiters:
            by_bell.setdefault(waiter.bell, []).append(waiter)
        for bell, rung in by_bell.items():
            bell.ring(rung)
        self._passive.difference_update([each for each in waiters if not each.wanted])

    def _hand_to_waiters(self, reports: Iterable[tuple[str, bytes]]) -> Iterable[Sleeper | Passive]:
        touched: dict[Sleeper | Passive, None] = {}
        for task_id, meta in reports:
            waiters = self._waiting.get(task_id)
            if waiters is None:
                continue
            arrival = (task_id, meta, self.is_final(meta))
            if arrival[2]:
                del self._waiting[task_id]
                self._new.discard(task_id)
                self._gone.add(task_id)
            for waiter in waiters:
                waiter.hand(arrival)
                touched[waiter] = None
        return touched

    def is_final(self, meta: bytes) -> bool:
        """Tell whether nothing follows this meta."""
        if meta.startswith(_PLAIN):
            return meta.startswith(_PLAIN_FINAL)
        try:
            return self.decode(meta)["status"] in READY_STATES
        except UmbelError:
            return True  # nobody can read it: whoever waits for it shall be told so

    def _endure(self, leader: Sleeper, timeout: float, error: ConnectionLost) -> None:
        """Drop the lost watch; give up, or pause before the next attempt."""
        self._drop_watch()
        now = self._monotonic()
        if self._lost_at is None:
            self._lost_at = now
            emit("results.lost", error=error)
        if now - max(self._lost_at, leader.since) >= self._patience:
            raise error
        pause = backoff.exponential(self._attempts, _RETRY, maximum=_SLOWEST_RETRY)
        self._attempts += 1
        leader.sleep(min(pause, timeout))

    # --- those who have no thread

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run a function in the reader's thread, which is there as long as anyone is passive."""
        reader = self._reader
        if reader is not None:
            reader.calls.append(call)
            reader.rouse()

    def _call_reader(self, now: float) -> _Reader | None:
        """Make sure that the reader waits for the passive ones; return it if it must be started."""
        reader = self._reader
        if reader is None:
            self._reader = _Reader(self)
            return self._reader
        if reader.parked:
            reader.parked = False
            reader.since = now
            reader.rouse()
        return None

    def _release_reader(self) -> None:
        """Let the reader, if it sleeps, park: nobody depends on it any more."""
        reader = self._reader
        if reader in self._asleep and reader.due():
            del self._asleep[reader]
            reader.rouse()

    def park(self, reader: _Reader) -> None:
        """Let the reader sleep until somebody passive comes."""
        self._tidy()
        with self._mutex:
            reader.parked = reader.due() and not reader.calls and reader.error is None
        if reader.parked:
            reader.sleep(_LONG)

    def has_passive(self) -> bool:
        """Tell whether anyone depends on the reader."""
        return bool(self._passive)

    def waits_for(self, waiter: Passive) -> bool:
        """Tell whether the reader still waits in its stead."""
        return waiter in self._passive

    def fail_passive(self, error: BaseException) -> None:
        """Tell all that have no thread why nothing will come."""
        with self._mutex:
            failed = list(self._passive)
            for waiter in failed:
                self._unseat(waiter)
                waiter.error = error
            self._tell_passive(failed)
            self._release_reader()

    # --- the end

    def close(self) -> None:
        """End all waits with BackendError and close the watch. The next wait opens it again."""
        error = BackendError("the result store was closed while results were waited for")
        self.fail_passive(error)
        with self._mutex:
            for waiter in {each for waiters in self._waiting.values() for each in waiters}:
                self._unseat(waiter)
                waiter.error = error
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.error = error
                reader.rouse()
            self._rouse_all()
            watch = self._watch
            if self._leader is None:
                self._watch = None
            elif watch is not None:
                watch.wake()
                watch = None  # the leader finds the error, and closes it
        if watch is not None:
            _close(watch)
        if reader is not None:
            reader.join()


class _Reader(Sleeper):
    """The wait, and the thread, of all who are passive. It parks while there are none."""

    __slots__ = ("_bridge", "_thread", "calls", "parked")

    def __init__(self, bridge: ResultBridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._thread = threading.Thread(target=self._run, name="umbel-results", daemon=True)
        #: What to run between two reads.
        self.calls: deque[Callable[[], None]] = deque()
        self.parked = False

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(_LAST_MOMENT)

    def due(self) -> bool:
        """Tell whether there is anything else to do than to wait for the passive ones."""
        return bool(self.calls) or self.error is not None or not self._bridge.has_passive()

    def _run(self) -> None:
        while self.error is None or self.calls:
            try:
                self._bridge.receive(self, None)
            except Exception as error:  # noqa: BLE001 -- whatever the store raises is their answer
                self._bridge.fail_passive(error)
            while self.calls:
                self._run_call(self.calls.popleft())
            self._bridge.park(self)

    def _run_call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 -- a caller's callback must not end the reader
            emit("results.callback_failed", error=error)


def _close(watch: Watch) -> None:
    # It is given up, mostly because it failed: that it fails once more says nothing new.
    with suppress(UmbelError):
        watch.close()
