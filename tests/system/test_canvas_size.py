"""Workflows of many parts and of many levels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.engines import running
from tests.unit import sent
from umbel import AsyncResult, Signature, Task, Umbel, chain, chord, group
from umbel.canvas import windows
from umbel.exceptions import BackendError, ChordError
from umbel.testing.probe import Probe

#: Seconds.
PATIENCE = 60.0


@pytest.fixture(params=["memory", "sqlite", "redis"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Umbel]:
    if request.param == "redis":
        url = str(request.getfixturevalue("redis_url"))
    else:
        urls = {"memory": f"memory://{tmp_path.name}", "sqlite": f"sqlite:///{tmp_path}/size"}
        url = urls[request.param]
    with Umbel("size", broker=url, set_as_current=False, task_whole_chain=50) as made:
        yield made


@pytest.fixture
def add(app: Umbel) -> Task[..., int]:
    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        if y == 0:
            raise ValueError("broken")
        return x + y

    return add


@pytest.fixture
def total(app: Umbel) -> Task[..., int]:
    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return total


def links(add: Task[..., int], count: int, *, broken: int = -1) -> list[Signature[Any]]:
    return [add.s(*(0,) * (number == 0), y=int(number != broken)) for number in range(count)]


def final_states(result: AsyncResult[Any], state: str) -> list[str]:
    """Wait until the last link has this state; return those of all, the first first."""
    found: list[Any] = [result, *result.ancestors()][::-1]
    every = [each for each in found if isinstance(each, AsyncResult)]
    with Probe() as probe:
        probe.wait_until(
            lambda: every[-1].state == state and every[-2].state == state, state, timeout=PATIENCE
        )
    return [each.state for each in every]


def test_a_long_chain_is_sent_in_windows(app: Umbel, add: Task[..., int]) -> None:
    result = chain(links(add, 350)).apply_async()
    with running(app):
        assert result.get(timeout=PATIENCE) == 350
        assert final_states(result, "SUCCESS") == ["SUCCESS"] * 350


def test_its_failure_reaches_every_later_link(app: Umbel, add: Task[..., int]) -> None:
    with running(app):
        result = chain(links(add, 350, broken=120)).apply_async()
        with pytest.raises(ValueError, match="broken"):
            result.get(timeout=PATIENCE)
        assert final_states(result, "FAILURE") == ["SUCCESS"] * 120 + ["FAILURE"] * 230


def test_it_may_be_part_of_a_chord(app: Umbel, add: Task[..., int], total: Task[..., int]) -> None:
    with running(app):
        result = chord([chain(links(add, 120)), add.s(1)], total.s() | chain(links(add, 90)[1:]))
        assert result.apply_async().get(timeout=PATIENCE) == 122 + 89
        failing = chord([chain(links(add, 120, broken=3)), add.s(1)], total.s())
        with pytest.raises(ChordError, match="broken"):
            failing.apply_async().get(timeout=PATIENCE)
        body: Any = total.s() | chain([add.s() for _ in range(120)])
        behind = chord([add.s(1, 0)], body).apply_async()
        assert set(final_states(behind, "FAILURE")) == {"FAILURE"}


def test_what_is_not_in_the_store_any_more_is_an_error(app: Umbel, add: Task[..., int]) -> None:
    result = chain(links(add, 120)).apply_async()
    app.servers().results.forget([windows.key_of(result.id, 1)])
    with running(app):
        every = [*result.ancestors()][::-1]
        last_sent: Any = every[windows.WINDOW - 1]
        assert last_sent.get(timeout=PATIENCE) == windows.WINDOW
        following = AsyncResult[Any](f"{result.id}-1", app=app)
        with pytest.raises(BackendError, match="not in the result store any more"):
            following.get(timeout=PATIENCE)


def test_messages_of_a_long_chain_stay_small(tmp_path: Path) -> None:
    with Umbel("size", broker=f"memory://{tmp_path.name}", set_as_current=False) as app:

        @app.task(name="add")
        def add(x: int, y: int = 1) -> int:
            return x + y

        chain(links(add, 500)).apply_async()
        chain(links(add, 20_000)).apply_async()
        whole, windowed = sent.requests(app)
        assert len(whole.chain or ()) == 499
        assert len(windowed.chain or ()) == windows.WINDOW + 1
        chord([add.s(1)], chain([add.s() for _ in range(20_000)])).apply_async()
        assert len(sent.request(app).chord["kwargs"]["tasks"]) == windows.WINDOW + 1
        app.conf.task_whole_chain = 0
        chain(links(add, 700)).apply_async()
        assert len(sent.request(app).chain or ()) == 699


def test_a_group_from_a_generator_needs_no_memory_for_its_members(tmp_path: Path) -> None:
    with Umbel("size", broker=f"sqlite:///{tmp_path}/size", set_as_current=False) as app:

        @app.task(name="add", ignore_result=True)
        def add(x: int, text: str) -> None: ...

        def members(count: int) -> Iterator[Signature[None]]:
            return (add.s(number, "x" * 500) for number in range(count))

        group(members(2000)).apply_async()
        tracemalloc.start()
        try:
            result = group(members(20_000)).apply_async()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(result) == 20_000
        assert peak < 20_000 * 500


@pytest.mark.parametrize("levels", [10, 200])
def test_nested_chords(app: Umbel, total: Task[..., int], levels: int) -> None:
    workflow: Signature[Any] = total.s([1, 2])
    for _ in range(levels):
        workflow = chord([workflow], total.s())
    with running(app):
        assert workflow.apply_async().get(timeout=PATIENCE) == 3


@pytest.mark.parametrize("levels", [10, 200])
def test_nested_groups_and_chains(app: Umbel, add: Task[..., int], levels: int) -> None:
    workflow: Signature[Any] = add.s()
    for _ in range(levels):
        workflow = group(chain([add.s(), workflow]), add.s())
    with running(app):
        value: Any = (add.s(0, 1) | workflow).apply_async().get(timeout=PATIENCE)
    depth = 0
    while isinstance(value, list):
        value, depth = value[0], depth + 1
    assert (value, depth) == (levels + 2, levels)
    assert len(repr(workflow)) > levels
