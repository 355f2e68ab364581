"""How durations, numbers and tables read."""

from __future__ import annotations

import pytest

from umbel.cli.texts import table
from umbel.control.wording import count, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (1, "1 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3603, "1 h"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert (count(1, "task"), count(0, "task")) == ("1 task", "0 tasks")


def test_tables_have_numbers_to_the_right() -> None:
    assert table(("name", "n"), [("a", "10"), ("longer", "")], numbers="n").splitlines()[1:] == [
        "a       10",
        "longer",
    ]
