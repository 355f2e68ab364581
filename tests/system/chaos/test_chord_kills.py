"""SIGKILL at every gap of a chord's life: each body's message is sent once, with all results."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos, worker
from tests.system.chaos.journal import read
from tests.system.chaos.test_kills import SEVERAL, chaos
from umbel import Umbel, chord
from umbel.message import Message

__all__ = ["chaos"]

pytestmark = pytest.mark.timeout(400)

CHORDS, MEMBERS = 150, 8
#: Nobody consumes it: what is sent there can be counted.
BODIES = "bodies"
#: A chord's own gaps: it is complete and its body is not sent; its body is sent.
GAPS = {"join.releasing": 0.15, "join.released": 0.1}


def test_each_body_is_sent_once_with_all_results(chaos: Chaos) -> None:
    # Given a worker whose processes die all the time
    deadly = replace(chaos, faults={**chaos.faults, **GAPS})
    expected: dict[str, list[int]] = {}
    with Umbel("client", broker=chaos.broker, set_as_current=False) as app:
        joins = app.servers().joins
        assert joins is not None

        def left() -> dict[str, object]:
            depths = app.servers().broker.transport.depth(["celery", BODIES])
            waiting, sent = depths["celery"], depths.get(BODIES)
            return {
                "bodies": len(expected) - (sent.ready if sent else 0),
                "members": waiting.ready + waiting.held + waiting.delayed,
                "joins": len(joins.unclosed(older_than=0.0)),
            }

        # When chords end in it, until each gap was hit, and no join is left to be closed
        with worker(deadly):
            while missed(chaos):
                expected |= send(app, first=len(expected) * MEMBERS)
                harness.wait_until(
                    lambda: not any(left().values()),
                    timeout=120,
                    why=lambda: f"left: {left()}, kills: {read(chaos.journal).kills}",
                )
        messages = received(app)

    # Then there is one message of each body
    account = read(chaos.journal)
    print(account.kills, sum(account.runs.values()) - len(account.runs), "run again")
    assert Counter(each.id for each in messages) == Counter([*expected])
    assert {each.id: json.loads(each.body)[0][0] for each in messages} == expected


def missed(chaos: Chaos) -> list[str]:
    """Return a chord's gaps in which hardly any process has died."""
    kills = read(chaos.journal).kills
    return [gap for gap in GAPS if kills[gap] < SEVERAL]


def send(app: Umbel, *, first: int) -> dict[str, list[int]]:
    """Send chords; return what their bodies shall get, by id."""
    work, body = app.signature("chaos.work"), app.signature("chaos.follow").set(queue=BODIES)
    expected = {}
    for start in range(first, first + CHORDS * MEMBERS, MEMBERS):
        numbers = range(start, start + MEMBERS)
        result = chord([work.clone((n,)) for n in numbers], body, app=app).apply_async()
        expected[result.id] = [2 * n for n in numbers]
    return expected


def received(app: Umbel) -> list[Message]:
    """Return all messages of bodies."""
    transport = app.servers().broker.transport
    found: list[Message] = []
    with closing(transport.consume([BODIES], consumer_id="counting", lease=60)) as consumer:
        while deliveries := consumer.receive(1000, 0):
            found += [delivery.message for delivery in deliveries]
    return found
