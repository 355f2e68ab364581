"""The check of arguments says what Python says, and says it first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.arguments import parameters_of


def nothing() -> None: ...
def one(x: int) -> None: ...
def defaults(x: int, y: int = 1, *, z: int = 2) -> None: ...
def keywords(x: int, *, y: int, z: int = 2) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def more(x: int, *args: Any, y: int) -> None: ...
def any_keyword(x: int, y: int = 2, **kwargs: Any) -> None: ...
def positional(x: int, y: int = 1, /, z: int = 2) -> None: ...
def positional_and_any(x: int, /, **kwargs: Any) -> None: ...


FUNCTIONS = [
    nothing,
    one,
    defaults,
    keywords,
    anything,
    more,
    any_keyword,
    positional,
    positional_and_any,
]


def fits(function: Callable[..., Any], args: list[int], kwargs: dict[str, int]) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.just(0), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "z", "w", ""]), st.just(0), max_size=4),
)
def test_it_agrees_with_python(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    parameters = parameters_of(function, function.__name__)
    assert parameters is not None
    if fits(function, args, kwargs):
        parameters.check(args, kwargs)
    else:
        with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) "):
            parameters.check(args, kwargs)
    if not kwargs and parameters.least <= len(args) <= parameters.most:
        assert fits(function, args, kwargs)


def test_a_fitting_call_without_keywords_needs_no_check() -> None:
    parameters = parameters_of(defaults, "defaults")
    assert parameters is not None
    assert (parameters.least, parameters.most) == (1, 2)


def test_what_python_cannot_tell_is_not_checked() -> None:
    assert parameters_of(type("C", (), {"__signature__": 1}), "C") is None
