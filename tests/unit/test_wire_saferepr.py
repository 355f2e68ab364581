"""Representations with bounds."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_values import examples, values
from umbel.wire.saferepr import MAX_DEPTH, bounded_repr


class Loud:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Hostile:
    def __repr__(self) -> str:
        raise SystemError("never")


class HostileList(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no items today")


class Pair(NamedTuple):
    x: int
    y: int


@examples
@given(values | st.sets(st.integers()) | st.frozensets(st.text()))
def test_what_fits_is_shown_as_python_shows_it(value: Any) -> None:
    shown = bounded_repr(value, 1 << 20)
    if "..." not in shown:
        assert shown == repr(value)


@examples
@given(values, st.integers(0, 100))
def test_the_text_has_at_most_the_size_asked_for(value: Any, size: int) -> None:
    shown = bounded_repr(value, size)
    assert len(shown) <= max(size, 3)
    shown.encode()


@pytest.mark.parametrize(
    "value",
    [
        (),
        (1,),
        [],
        {},
        set(),
        frozenset(),
        frozenset({1}),
        {1: {2: [3]}},
        b"\xff",
        bytearray(b"x"),
        Pair(1, 2),
        OrderedDict(a=1),
        defaultdict(list, a=[1]),
        True,
        1.5,
        None,
        2**100,
        type,
        'it\'s "quoted"',
    ],
)
def test_common_values(value: Any) -> None:
    assert bounded_repr(value) == repr(value)


def test_a_cut_is_marked() -> None:
    assert bounded_repr("abcdefghijkl", 10) == "'abcdef..."
    assert bounded_repr(list(range(100)), 10) == "[0, 1, ..."


def test_depth_is_bounded() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert bounded_repr(loop) == "[" * (MAX_DEPTH + 1) + "..." + "]" * (MAX_DEPTH + 1)
    table: dict[str, Any] = {}
    table["a"] = table
    assert bounded_repr(table).count("...") == 1


def test_objects_that_cannot_be_shown() -> None:
    assert bounded_repr([1, Hostile()]).endswith("Hostile object>]")
    assert bounded_repr(HostileList([1])).endswith("...") or "object>" in bounded_repr(
        HostileList()
    )
    assert bounded_repr(10**5000) == "<builtins.int object>"
    assert bounded_repr(Loud("\ud800")) == "\\ud800"
    assert bounded_repr(Loud("x" * 5000)) == "x" * 1021 + "..."


def test_large_values_are_not_read_in_full() -> None:
    class Counting(list[Any]):
        read = 0

        def __iter__(self) -> Any:
            for item in super().__iter__():
                Counting.read += 1
                yield item

        def __repr__(self) -> str:
            raise AssertionError("asked for all of it")

    assert bounded_repr(Counting(range(1_000_000)), 100).startswith("[0, 1, 2")
    assert Counting.read < 100


def test_large_values_take_no_time() -> None:
    large = ["x" * 20_000_000, {n: n for n in range(1_000_000)}, b"y" * 20_000_000, 1 << 50_000_000]
    started = time.perf_counter()
    for value in (large, *large):
        for _ in range(100):
            bounded_repr(value)
    assert time.perf_counter() - started < 1
