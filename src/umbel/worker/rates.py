"""Rate limits: how often tasks of one type may start in one worker, all its processes together.

A task over its rate holds neither a slot nor a place in the window: its message goes back to the
broker, delayed, in one commit with the end of its delivery. So nothing is lost, a worker that stops
takes no backlog along, and other tasks pass by.

A budget is a line. Who comes and finds nobody waiting and the budget free, starts. Who finds it
used up is sent to the end of the line, that is, to the moment at which his turn will probably be,
and takes no part of the budget with him: only a start uses some. Who comes back from there
(``RATED_HEADER`` says so) starts as soon as the budget is free, before all newcomers; if it is not,
because others came back at the same time, he waits in a short line of its own. So the order of
arrival is kept as well as delays can keep it, and because nothing is booked ahead, nothing is
wasted when a message comes back to another worker, is revoked meanwhile, or the worker restarts.

Times between starts do not drift: a start that is late by less than ``SLACK`` does not move those
after it. That is also the burst a budget allows after a pause.

The budgets are in shared memory, made before the supervisor forks; the lock is one that the system
takes from a process that dies. A message that survived the death of its process is not delayed
(its new copy would have forgotten that), and uses the budget up in advance.

Rejected: holding the message until it may start (a slot or a place in the window per message, as
Celery does); counting in the broker (a round trip for each start, and Celery's limits are per
worker); giving each message its moment for good (it is wasted when another worker receives it).
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ImproperlyConfigured
from umbel.message import Delivery, Effects

#: Header of a message that was sent back because its task was over its rate.
RATED_HEADER = "umbel_rated"
#: Seconds by which a start may be late without moving the following ones.
SLACK = 0.1
#: Most types of tasks with a limit.
MOST = 4096

_PER = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DIGEST = 16
_RECORD = struct.Struct(f"={_DIGEST}sddd")


class Budget(NamedTuple):
    """The state of one budget; monotonic times."""

    #: When the next start is allowed.
    free_at: float = 0.0
    #: Where the line of newcomers ends.
    line_at: float = 0.0
    #: Where the line of those that came back too early ends.
    back_at: float = 0.0

    def used(self, interval: float, now: float) -> Budget:
        """Return it after a start."""
        return self._replace(free_at=max(self.free_at, now - SLACK) + interval)

    def ask(self, interval: float, now: float, *, came_back: bool) -> tuple[float, Budget]:
        """Return how long to wait for a start, 0 = start now, and the budget after that."""
        if self.free_at <= now and (came_back or self.line_at <= now):
            return 0.0, self.used(interval, now)
        if came_back:
            turn = max(self.back_at, self.free_at)
            return turn - now, self._replace(back_at=turn + interval)
        turn = max(self.line_at, self.free_at)
        return turn - now, self._replace(line_at=turn + interval)


def per_second(rate: str | float | None, task: str) -> float:
    """Read a rate limit as Celery writes it; 0 = none."""
    number, _, unit = str(rate or 0).partition("/")
    try:
        found = float(number) / _PER[unit]
    except (KeyError, ValueError):
        found = -1.0
    if not 0.0 <= found < float("inf"):
        raise ImproperlyConfigured(
            f"rate_limit of {task}: expected a number per second, '10/m', '5/s' or '100/h', "
            f"got {rate!r}"
        )
    return found


class Budgets:
    """The budgets of a worker in memory that its processes share. Made before they are forked.

    In each process one thread uses it.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MOST * _RECORD.size)
        # A file without a name, for its lock.
        self._fd, path = tempfile.mkstemp()
        Path(path).unlink()

    def __del__(self) -> None:
        os.close(self._fd)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep the other processes out."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def place_of(self, name: str) -> int:
        """Return where the budget of a task is, the same in every process. Under the lock."""
        digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest()
        first = int.from_bytes(digest[:4], "little") % MOST
        for place in ((first + step) % MOST for step in range(MOST)):
            at = place * _RECORD.size
            found = self._memory[at : at + _DIGEST]
            if found == digest:
                return place
            if not any(found):
                _RECORD.pack_into(self._memory, at, digest, *Budget())
                return place
        raise ImproperlyConfigured(f"expected at most {MOST} tasks with a rate limit")

    def read(self, place: int) -> Budget:
        """Return a budget. Under the lock."""
        return Budget(*_RECORD.unpack_from(self._memory, place * _RECORD.size)[1:])

    def write(self, place: int, budget: Budget) -> None:
        """Keep a budget. Under the lock."""
        at = place * _RECORD.size
        _RECORD.pack_into(self._memory, at, self._memory[at : at + _DIGEST], *budget)


class Rates:
    """Sends away what is over its rate. Owned by the pump's thread."""

    def __init__(
        self, budgets: Budgets, limits: Mapping[str, float], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._budgets = budgets
        self._clock = clock
        with budgets.locked():
            #: Where the budget of a task is, and the seconds between two starts.
            self._limits = {
                name: (budgets.place_of(name), 1.0 / limit) for name, limit in limits.items()
            }

    def sift(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Effects]]:
        """Return those that may start, and the effects of sending the others away."""
        limited = [self._limit_of(delivery) for delivery in deliveries]
        if not any(limited):
            return list(deliveries), []
        may: list[Delivery] = []
        away: list[Effects] = []
        now = self._clock.now()
        with self._budgets.locked():
            for delivery, limit in zip(deliveries, limited, strict=True):
                wait = 0.0 if limit is None else self._wait(delivery, *limit, now)
                if wait > 0.0:
                    away.append(_away(delivery, now + wait))
                else:
                    may.append(delivery)
        return may, away

    def _limit_of(self, delivery: Delivery) -> tuple[int, float] | None:
        name = delivery.message.headers.get("task")
        return self._limits.get(name) if type(name) is str else None

    def _wait(self, delivery: Delivery, place: int, interval: float, now: float) -> float:
        if _will_not_run(delivery, now):
            return 0.0
        budget, at, wait = self._budgets.read(place), self._clock.monotonic(), 0.0
        if delivery.crashes or delivery.losses or delivery.suspect:
            budget = budget.used(interval, at)
        else:
            came_back = RATED_HEADER in delivery.message.headers
            wait, budget = budget.ask(interval, at, came_back=came_back)
        self._budgets.write(place, budget)
        return wait


def _will_not_run(delivery: Delivery, now: float) -> bool:
    message = delivery.message
    expired = message.expires_at is not None and message.expires_at <= now
    return expired or message.not_before > now or delivery.revoked or bool(delivery.verdict)


def _away(delivery: Delivery, not_before: float) -> Effects:
    message = delivery.message
    later = dataclasses.replace(
        message,
        exchange="",
        routing_key=delivery.queue,
        headers={**message.headers, RATED_HEADER: True},
        not_before=not_before,
    )
    return Effects(delivery, publish=(later,))
