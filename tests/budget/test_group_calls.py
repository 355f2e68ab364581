"""How many Python functions run for each member of a group, from its signature to its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.budget.counting import python_calls
from umbel import Umbel, group
from umbel.task import Task

AddTask = Task[..., int]

#: Exact, as a ratchet: fewer is welcome and written down here, more needs a reason.
PLAIN = 6
#: With keyword arguments.
WITH_KEYWORDS = 9
#: In a list, which may hold members that are no signatures yet.
LISTED = 7
#: With an option for all members.
WITH_OPTION = 16
#: With options of its own, which sends each as ``apply_async`` does.
WITH_OWN_OPTION = 40


@pytest.fixture
def add() -> Iterator[AddTask]:
    with Umbel("budget", "memory://budget-group", set_as_current=False) as app:

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        yield add


def per_member(send: Callable[[int], Any]) -> float:
    """Return the calls for each of a hundred more members; what the server does is its own."""

    def ours(count: int) -> int:
        called = python_calls(lambda: send(count))
        return sum(name.startswith("umbel.") and ".servers." not in name for name in called)

    send(100)  # compiles
    return (ours(200) - ours(100)) / 100


def test_a_plain_member(add: AddTask) -> None:
    assert per_member(lambda n: group(add.s(i, i) for i in range(n)).apply_async()) == PLAIN
    count = per_member(lambda n: group(add.s(i, y=i) for i in range(n)).apply_async())
    assert count == WITH_KEYWORDS
    assert per_member(lambda n: group([add.si(i, i) for i in range(n)]).delay()) == LISTED


def test_a_member_with_options(add: AddTask) -> None:
    count = per_member(lambda n: group(add.s(i, i) for i in range(n)).apply_async(priority=3))
    assert count == WITH_OPTION
    count = per_member(lambda n: group(add.s(i, i).set(priority=3) for i in range(n)).delay())
    assert count == WITH_OWN_OPTION
