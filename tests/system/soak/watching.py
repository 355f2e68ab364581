"""What processes use, looked at again and again: file descriptors, threads, memory."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: What may come on top between the second quarter and the last: a number, and a share.
TOLERANCE = {"descriptors": (3.0, 0.0), "threads": (2.0, 0.0), "MiB": (3.0, 0.1)}


@dataclass(slots=True)
class Series:
    """One figure over time."""

    what: str
    unit: str
    minutes: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Growth per minute, the first quarter left out: there the processes warm up."""
        quarter = len(self.values) // 4
        return statistics.linear_regression(self.minutes[quarter:], self.values[quarter:]).slope

    @property
    def growth(self) -> float:
        """How much more it was in the last quarter than in the second."""
        quarter = len(self.values) // 4
        before = statistics.median(self.values[quarter : 2 * quarter])
        return statistics.median(self.values[-quarter:]) - before

    @property
    def is_flat(self) -> bool:
        number, share = TOLERANCE[self.unit]
        return self.growth <= number + share * statistics.median(self.values)

    def __str__(self) -> str:
        typical = statistics.median(self.values)
        return f"{self.what}: {typical:.1f} {self.unit}, {self.slope:+.2f} a minute"


class Watch:
    """Looks at a worker: at its first process, and at the greatest among the others."""

    def __init__(self, name: str) -> None:
        self.series = {
            (who, unit): Series(f"{name}, {who}", unit)
            for who in ("supervisor", "children")
            for unit in TOLERANCE
        }

    def look(self, pid: int, minutes: float) -> None:
        """Add what a worker uses now, if it is there."""
        uses = [use for each in (pid, *children(pid)) if (use := _use(each))]
        if len(uses) < 2:
            return
        for (who, unit), series in self.series.items():
            values = [use[unit] for use in (uses[:1] if who == "supervisor" else uses[1:])]
            series.minutes.append(minutes)
            series.values.append(max(values))

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series.values())


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _use(pid: int) -> dict[str, float]:
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, KeyError):
        lines = (folder / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return {
            "descriptors": float(sum(1 for _ in (folder / "fd").iterdir())),
            "threads": float(status["Threads"]),
            # Not what is shared by chance, nor what is mapped from files.
            "MiB": float(status["RssAnon"].split()[0]) / 1024,
        }
    return {}
