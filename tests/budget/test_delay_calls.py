"""How many Python functions run between ``delay()`` and the stored message, on memory://."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.budget.counting import python_calls
from umbel import Umbel
from umbel.context import current_request
from umbel.task import Task
from umbel.wire.task import Request

AddTask = Task[..., int]

#: What the design allows (Celery: 464).
DESIGN = 46
#: What it takes now: whoever needs more raises it knowingly.
NOW = 15


@pytest.fixture
def add() -> Iterator[AddTask]:
    with Umbel("budget", "memory://budget", set_as_current=False) as app:

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        add.delay(1, 2)  # compiles
        yield add


def counted(add: AddTask) -> list[str]:
    def delay() -> None:
        add.delay(1, 2)

    return python_calls(delay)[1:]  # without `delay` above


def test_a_plain_call(add: AddTask) -> None:
    calls = counted(add)
    print(*calls, sep="\n")
    assert len(calls) <= NOW <= DESIGN


def test_a_call_made_by_a_task(add: AddTask) -> None:
    token = current_request.set(Request(id="parent", task="t", root_id="root"))
    try:
        assert len(counted(add)) <= NOW
    finally:
        current_request.reset(token)


def test_a_call_with_keywords(add: AddTask) -> None:
    def delay() -> None:
        add.delay(x=1, y=2)

    assert len(python_calls(delay)[1:]) <= NOW + 3


def test_the_first_call_after_a_change_compiles_and_the_next_does_not(
    add: AddTask,
) -> None:
    usual = len(counted(add))
    add.app.conf.update(task_default_priority=3)
    assert len(counted(add)) > usual
    assert len(counted(add)) == usual
