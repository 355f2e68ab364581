"""What the benchmarks make of their rounds: ratios, verdicts, and the sections of RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from bench.figures import Case, Metric, Rounds, Target, percentile
from bench.report import merged, table
from bench.session import Stage
from bench.system import System


def rounds(**values: list[Mapping[str, float]]) -> Rounds:
    case = Case(
        name="drain",
        title="Drain",
        method="How.",
        metrics=(Metric("rate", "tasks/s", compared=True),),
        measure=_unused,
        targets=(Target("rate", least=0.4, of="bare"), Target("rate", least=1000)),
        systems=("umbel", "bare"),
    )
    return Rounds(case, values)


def _unused(_stage: Stage, _system: System) -> Mapping[str, float]:
    raise NotImplementedError


def test_a_ratio_is_the_median_of_the_ratios_of_the_same_round() -> None:
    found = rounds(
        umbel=[{"rate": 10.0}, {"rate": 50.0}, {}], bare=[{"rate": 20.0}, {"rate": 100.0}, {}]
    )
    assert found.ratio("rate", "umbel", "bare") == 0.5


def test_a_table_says_what_was_reached_and_what_was_missed() -> None:
    text = table(rounds(umbel=[{"rate": 500.0}], bare=[{"rate": 1000.0}]))
    assert "| umbel | 500     |         |" in text
    assert "| bare  | 1,000   | 0.50    |" in text
    assert "- reached: umbel: tasks/s ÷ bare = 0.5, wanted ≥ 0.4" in text
    assert "- **missed**: umbel: tasks/s = 500, wanted ≥ 1,000" in text


def test_a_target_is_not_judged_without_what_it_is_compared_with() -> None:
    assert "÷ bare" not in table(rounds(umbel=[{"rate": 500.0}]))


def test_a_part_replaces_the_one_of_the_same_commit_and_no_other() -> None:
    first = merged("# Results\n\nHead.\n", "abc", {"Drain": "old", "Enqueue": "kept"})
    second = merged(first, "abc", {"Drain": "new"})
    third = merged(second, "def", {"Drain": "newest"})
    assert third == (
        "\n## def\n\n### Drain\n\nnewest\n\n## abc\n\n### Drain\n\nnew\n\n### Enqueue\n\nkept\n"
    )


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0)])
def test_percentile(share: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == value
