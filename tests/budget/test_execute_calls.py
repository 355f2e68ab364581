"""How many Python-level calls one trivial task costs between inbox and outbox: exact."""

from __future__ import annotations

import os
from types import SimpleNamespace

from tests.budget.counting import python_calls
from umbel.bound import BoundTask
from umbel.canvas.advance import Policy
from umbel.clock import SYSTEM_CLOCK
from umbel.message import Delivery
from umbel.serializers import accepted
from umbel.wire.task import TaskEncoder
from umbel.worker.board import Board
from umbel.worker.lane import Desk, Gate, Item, Lane
from umbel.worker.limits import ThreadLimit
from umbel.worker.service import Service

#: What the design allows, and what it is now: let it grow only with a reason.
BUDGET, NOW = 46, 32


def add(x: int, y: int) -> int:
    return x + y


def test_a_trivial_task_is_executed_within_its_budget() -> None:
    bound = BoundTask("add", SimpleNamespace(run=add), add)
    policy = Policy(lambda *_: None)  # type: ignore[arg-type]  # has no follow-ups
    service = Service({"add": bound}, policy, accept=accepted(["json"]), node="n@h")
    desk = Desk(lambda: None, Gate())
    slot = Board(1, entries=2).slots[0]
    lane = Lane(0, desk, service, slot=slot, limit=ThreadLimit(), pid=os.getpid())
    message = TaskEncoder("add").encode((1, 2), {}, id="id-1", sent_at=SYSTEM_CLOCK.now())
    item = Item(Delivery(message, "celery", 1), "add")

    def run_one() -> None:
        desk.inbox.put(item)
        desk.inbox.put(None)
        lane.run()

    run_one()  # what is made once
    calls = python_calls(run_one)
    assert len(desk.outbox) == 2
    assert len(calls) <= NOW < BUDGET, calls
