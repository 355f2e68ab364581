from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.topology import route, topic_matches


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("", "", True),
        ("a", "a", True),
        ("a", "b", False),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*.c", "a.b.c", True),
        ("*.*", "a.b", True),
        ("#", "", True),
        ("#", "a", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "b", False),
        ("#.c", "c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "a.c.b", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("#.#", "", True),
        ("#.#", "a", True),
        ("#.*", "a", True),
        ("*.#", "a.b", True),
        ("a#", "ab", False),
        ("a*", "ab", False),
    ],
)
def test_topic_matches(pattern: str, key: str, *, taken: bool) -> None:
    assert topic_matches(pattern, key) is taken


_WORDS = st.lists(st.sampled_from("ab"), min_size=1, max_size=5)


@given(_WORDS, st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5))
def test_topic_matches_as_its_definition_does(words: list[str], pattern: list[str]) -> None:
    assert topic_matches(".".join(pattern), ".".join(words)) is by_definition(pattern, words)


def by_definition(pattern: list[str], words: list[str]) -> bool:
    """Say it as AMQP does: * is one word, # is zero or more; exponential and plain."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(by_definition(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and by_definition(pattern[1:], words[1:])


@given(st.permutations([("a", "q1"), ("a", "q2"), ("b", "q3")]))
def test_a_direct_exchange_takes_equal_keys_in_the_order_of_binding(
    bindings: list[tuple[str, str]],
) -> None:
    assert route("direct", bindings, "a") == tuple(q for key, q in bindings if key == "a")


def test_a_fanout_exchange_takes_any_key() -> None:
    assert route("fanout", [("", "q1"), ("b", "q2")], "x") == ("q1", "q2")


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_queue_bound_twice_is_named_once(kind: str) -> None:
    bindings = itertools.product(["a", "a"], ["q1", "q2"])
    assert route(kind, bindings, "a") == ("q1", "q2")


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_without_bindings_there_is_no_way(kind: str) -> None:
    assert route(kind, [], "a") == ()
