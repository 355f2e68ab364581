"""One connection for many threads, without a thread of its own.

Whoever waits for the server drives the connection: a caller takes a ``Turn``, and of all callers
the one that holds the *baton* (the leader) begins everybody's turns, polls, and sees whose turn is
done. The others sleep. When the leader's own turn is done it lets the baton go and pokes one of
those still waiting. So a thread alone, the usual case, publishes without any change of thread, and
many threads have their messages in flight together.

Owners. ``_inbox`` and ``_turns`` are for all threads, by single atomic operations; the session, its
connection and whatever its callbacks change belong to the holder of the baton. A turn is the
caller's until it stands in ``_inbox``, the leader's until it is ``finished``, then the caller's.

Guarantees. A turn that was begun ends with its result or with the error of its connection; one that
was not begun when the connection broke is begun on the next. A leader never leaves while another
caller sleeps unpoked: a caller registers in ``_turns`` *before* it tries to take the baton, and a
leader looks there *after* it let go.

An idle connection is driven by nobody. Where the server expects heartbeats, ``serve`` must be
called from time to time; ``keep`` starts a thread for that. Where it expects none, a connection
that broke meanwhile is noticed at the beginning of the next turn, before anything is sent on it.

Rejected: an I/O thread (two changes of thread for each operation, see ``connection``); a lock held
for a whole publish (confirms of several threads could not be in flight together, and a confirm
waits for the server's disk); one connection for publishing and consuming (when the server is short
of memory it stops reading from connections that publish, and acknowledgements would be stuck behind
them).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    ConnectionLost,
    ImproperlyConfigured,
    TimeoutError,
    TransportError,
)
from umbel.servers.rabbitmq.connection import Connection, Refused

#: Seconds after which a connection that nobody drove is looked at before it is used.
_STALE_AFTER = 1.0
#: Seconds in which a leader lets a connection be closed.
_CLOSE_TIMEOUT = 5.0

_monotonic = SYSTEM_CLOCK.monotonic


#: What the beginning of a turn may come to, with the connection as sound as before, or known to be
#: broken.
_ANSWERS = (TransportError, TimeoutError, ImproperlyConfigured, Refused)


class Session(Protocol):
    """What lives and dies with one connection: channels and what goes on in them."""

    connection: Connection


S = TypeVar("S", bound=Session)


class Turn(Generic[S]):
    """One caller's business with the connection: begin it, and tell when it is done."""

    __slots__ = (
        "abandoned",
        "begin",
        "connects",
        "deadline",
        "done",
        "error",
        "finished",
        "grace",
        "poke",
    )

    def __init__(
        self,
        begin: Callable[[S, float], object],
        done: Callable[[], object] | None = None,
        *,
        connects: bool = True,
        grace: float = 0.0,
    ) -> None:
        #: Called by the leader with the session and the deadline; may step, and may raise.
        self.begin = begin
        #: None = done when begun.
        self.done = done
        #: False = done, too, when there is no connection.
        self.connects = connects
        #: Seconds beyond its deadline in which it may connect and begin.
        self.grace = grace
        self.deadline = 0.0
        self.finished = False
        self.abandoned = False
        self.error: Exception | None = None
        self.poke = threading.Lock()
        self.poke.acquire()

    def finish(self, error: Exception | None = None) -> None:
        """End the turn and let its caller go on."""
        self.error = error
        self.finished = True
        self.wake()

    def wake(self) -> None:
        """Let the caller look again."""
        with contextlib.suppress(RuntimeError):  # it is awake
            self.poke.release()


class Link(Generic[S]):
    """See the essay above. Thread-safe; not for use after a fork."""

    def __init__(self, open_session: Callable[[float], S]) -> None:
        self._open_session = open_session
        # One that knows its owner: a strike between taking it and the next step loses no baton.
        self._baton = threading.RLock()
        #: The thread that leads; its signal handlers must not.
        self._leader = 0
        self._inbox: deque[Turn[S]] = deque()
        self._turns: dict[Turn[S], None] = {}
        self._begun: list[Turn[S]] = []
        self._session: S | None = None
        self._driven_at = 0.0
        #: Something was begun since the last step.
        self._unsent = False
        self._end = threading.Event()

    def run(self, turn: Turn[S], deadline: float) -> bool:
        """Take a turn; tell whether it was done before the deadline.

        Raises what its beginning raised, or ConnectionLost when the connection broke meanwhile.
        """
        turn.deadline = deadline
        self._turns[turn] = None
        self._inbox.append(turn)
        try:
            self._wait(turn)
        finally:
            turn.abandoned = True
            del self._turns[turn]
            self._pass_on()
        if turn.error is not None:
            raise turn.error
        return turn.finished

    def wake(self) -> None:
        """Make the leader look whose turn is done. Any thread, signal handlers too."""
        session = self._session
        if session is not None:  # else it is being opened, and the leader looks after that
            session.connection.wake()

    def serve(self) -> None:
        """Do what the server expects at once, unless somebody drives anyway. Any thread."""
        if self._with_baton(self._serve):
            self._pass_on()

    def keep(self, interval: float, tick: Callable[[], None], name: str) -> None:
        """Call ``tick`` every ``interval`` seconds from a thread, until ``end``."""

        def keep() -> None:
            while not self._end.wait(interval):
                # What breaks the connection is told to its next user.
                with contextlib.suppress(TransportError, TimeoutError):
                    tick()

        threading.Thread(target=keep, name=name, daemon=True).start()

    def close(self, *, politely: bool = True) -> None:
        """Close the connection; turns under way end with ConnectionLost. The next one reconnects.

        Politely, what was written is sent and the server has given back what was held on return.
        """

        def close(session: S, _deadline: float) -> None:
            if politely:
                session.connection.close()
            else:
                session.connection.abort()

        self.run(Turn(close, connects=False), _monotonic() + _CLOSE_TIMEOUT)

    def end(self) -> None:
        """Close, and stop serving."""
        self._end.set()
        self.close()

    # --- waiting

    def _wait(self, turn: Turn[S]) -> None:
        while not turn.finished:
            if self._with_baton(lambda: self._lead(turn)):
                return
            self.wake()
            if not turn.poke.acquire(timeout=max(turn.deadline - _monotonic(), 0.0)):
                return

    def _pass_on(self) -> None:
        for turn in list(self._turns):
            if not turn.finished:
                turn.wake()
                return

    def _with_baton(self, work: Callable[[], None]) -> bool:
        """Do it if nobody leads; tell whether it was done."""
        me = threading.get_ident()
        if self._leader == me:
            return False
        try:
            if not self._baton.acquire(blocking=False):
                return False
            self._leader = me
            work()
        except BaseException:
            if self._leader == me:
                self._spoil()
            raise
        else:
            return True
        finally:
            # No call but the release, which no strike can forestall.
            if self._leader == me:
                self._leader = 0
            try:  # noqa: SIM105 -- see above
                self._baton.release()
            except RuntimeError:  # it was another's
                pass

    # --- leading: with the baton only

    def _serve(self) -> None:
        self._step(0.0)
        self._look()

    def _lead(self, mine: Turn[S]) -> None:
        while True:
            self._begin_all()
            self._look()
            # What was begun has only been written into a buffer: the next step sends it.
            if mine.finished and not self._unsent:
                return
            left = mine.deadline - _monotonic()
            if left <= 0.0 and not self._unsent:
                return
            self._step(0.0 if mine.finished else left)

    def _begin_all(self) -> None:
        while self._inbox:
            turn = self._inbox.popleft()
            if turn.abandoned:
                continue
            try:
                self._refresh()
                by = turn.deadline + turn.grace
                if self._session is None and turn.connects:
                    self._session = self._open_session(by)
                    self._driven_at = _monotonic()
                if self._session is not None:
                    turn.begin(self._session, by)
            except _ANSWERS as error:  # its caller raises it
                turn.finish(error)
            except BaseException:  # it struck in the middle of pika's work (see _spoil)
                turn.finish(_interrupted())
                raise
            else:
                self._begun.append(turn)
                self._unsent = True

    def _refresh(self) -> None:
        """Let go of a connection that broke while nobody drove it."""
        session = self._session
        if session is not None and (
            session.connection.trouble or _monotonic() - self._driven_at > _STALE_AFTER
        ):
            self._step(0.0)

    def _step(self, timeout: float) -> None:
        self._unsent = False
        session = self._session
        if session is None:
            return
        connection = session.connection
        if connection.trouble is None:
            connection.step(timeout)
            self._driven_at = _monotonic()
        if connection.trouble is not None:
            self._session = None
            connection.abort()
            self._fail(connection.trouble)

    def _spoil(self) -> None:
        # A soft time limit or an interrupt struck, perhaps in the middle of pika's work: what is
        # half read or half written is of no use any more.
        session, self._session = self._session, None
        if session is not None:
            session.connection.abort()
            self._fail(_interrupted())

    def _look(self) -> None:
        waiting = []
        for turn in self._begun:
            if self._is_done(turn):
                turn.finish()
            elif not turn.abandoned:
                waiting.append(turn)
        self._begun = waiting

    def _is_done(self, turn: Turn[S]) -> bool:
        return turn.done is None or bool(turn.done())

    def _fail(self, error: ConnectionLost) -> None:
        begun, self._begun = self._begun, []
        for turn in begun:
            if self._is_done(turn):
                turn.finish()
            else:
                turn.finish(ConnectionLost(*error.args))


def _interrupted() -> ConnectionLost:
    return ConnectionLost("another user of the connection was interrupted")
