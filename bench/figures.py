"""What a case measures, and what is made of the rounds: medians, ranges, ratios, targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.session import Stage
from bench.system import System
from bench.systems import USUAL

#: The system that the others are compared with.
OURS = "umbel"


@dataclass(frozen=True, slots=True)
class Metric:
    """A column."""

    key: str
    heading: str
    decimals: int = 0
    #: Whether a column beside it says each system's share of ours.
    compared: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach: a bound on it, or on its ratio to another figure."""

    metric: str
    least: float = -math.inf
    most: float = math.inf
    #: The figure is divided by this system's ...
    of: str = ""
    #: ... or by this metric of the same system.
    of_metric: str = ""
    #: Whose figure it is; "" = ours.
    system: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One table: what is measured, on whom, and what ours must reach."""

    name: str
    title: str
    #: A sentence or two that says what exactly is measured.
    method: str
    metrics: tuple[Metric, ...]
    #: Measures one system once; a metric that it leaves out does not apply.
    measure: Callable[[Stage, System], Mapping[str, float]]
    targets: tuple[Target, ...] = ()
    systems: tuple[str, ...] = USUAL
    #: Rounds at most, for what takes minutes.
    rounds: int = 1000
    #: The system that the others are compared with.
    ours: str = OURS

    def on(self, place: str, ours: str, systems: tuple[str, ...], *targets: Target) -> Case:
        """Return the same on another server, with what is wanted there."""
        return replace(
            self,
            name=f"{place.lower()}-{self.name}",
            title=f"{place}: {self.title[0].lower()}{self.title[1:]}",
            ours=ours,
            systems=systems,
            targets=targets,
        )


@dataclass(slots=True)
class Rounds:
    """What a case measured, round by round."""

    case: Case
    #: By system, then one entry a round; an empty one where it failed.
    values: dict[str, list[Mapping[str, float]]] = field(
        default_factory=dict[str, list[Mapping[str, float]]]
    )
    failures: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, system: str, values: Mapping[str, float]) -> None:
        """Note what a system did in this round."""
        self.values.setdefault(system, []).append(values)

    def of(self, system: str, metric: str) -> list[float]:
        """Return a figure's values, those of failed rounds left out."""
        rounds = self.values.get(system, [])
        return [each[metric] for each in rounds if not math.isnan(each.get(metric, math.nan))]

    def ratio(self, metric: str, system: str, base: str, base_metric: str = "") -> float:
        """Return the median of the rounds' ratios of one system's figure to another's."""
        base_metric = base_metric or metric
        pairs = zip(self.values.get(system, []), self.values.get(base, []), strict=False)
        return median(
            [a[metric] / b[base_metric] for a, b in pairs if metric in a and b.get(base_metric)]
        )

    def judge(self, target: Target) -> tuple[float, bool]:
        """Return a target's figure, and whether it is reached."""
        system = target.system or self.case.ours
        if target.of or target.of_metric:
            base = target.of or system
            value = self.ratio(target.metric, system, base, target.of_metric)
        else:
            value = median(self.of(system, target.metric))
        return value, target.least <= value <= target.most


def median(values: Sequence[float]) -> float:
    """Return the median, or not a number of nothing."""
    return statistics.median(values) if values else math.nan


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so great a share of the values does not exceed."""
    if not values:
        return math.nan
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
