"""Turns with a connection to nowhere: what a signal that raises may not break."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from umbel.clock import SYSTEM_CLOCK
from umbel.servers.rabbitmq.link import Link, Turn

STRIKES = 1000


class Struck(Exception):
    """What the signal's handler raises, as a soft time limit does."""


class Nowhere:
    """A connection that is always there and never brings anything."""

    trouble = None

    def step(self, timeout: float) -> None:
        pass

    def abort(self) -> None:
        pass

    def wake(self) -> None:
        pass


class Session:
    """A session of nothing but its connection."""

    def __init__(self, _deadline: float) -> None:
        self.connection: Any = Nowhere()


@pytest.fixture
def strikes() -> Iterator[None]:
    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("strikes")
def test_the_baton_is_not_lost_wherever_an_exception_strikes() -> None:
    # Given turns of a thread that is struck again and again
    link = Link(Session)
    struck = 0
    while struck < STRIKES:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.0005))
            while True:
                link.run(Turn(lambda *_: None), SYSTEM_CLOCK.monotonic() + 1.0)
        except Struck:
            struck += 1
    # When it is left alone, then it still has its turn
    assert link.run(Turn(lambda *_: None), SYSTEM_CLOCK.monotonic() + 1.0)
