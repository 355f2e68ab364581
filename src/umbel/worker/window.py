"""The window: how many deliveries a worker holds, measured in time, learnt per task.

Pure arithmetic, no clock. The aim is to hold ``target`` seconds of work beyond what runs: tasks of
a second are fetched one by one when a lane is free, trivial ones by the hundred. A task never seen
counts as a whole target, so the first of its kind is fetched alone.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Seconds of work to hold per lane beyond what it runs.
TARGET = 0.075
#: Most messages held, and most bytes of their bodies. More would save little, and on a server whose
#: writers take turns (SQLite) others would wait for each batch.
MOST = 256
MOST_BYTES = 32 << 20
#: Weight of the newest observation; long runs count at once, short ones are believed slowly.
_FASTER = 0.1
_SLOWER = 0.5


class Window:
    """What the pump knows about how long tasks take. Owned by the pump's thread."""

    def __init__(self, *, lanes: int, target: float = TARGET, most: int = MOST) -> None:
        self._lanes = lanes
        self._target = target
        self._most = most
        self._estimates: dict[str, float] = {}
        self._held: dict[str, int] = {}
        self._size = 0.0
        #: What the next message will probably take.
        self._typical = target

    @property
    def held(self) -> int:
        """How many deliveries are held."""
        return sum(self._held.values())

    def hold(self, names: Iterable[str], size: int) -> None:
        """Count deliveries of these tasks as held; ``size`` is the mean size of their bodies."""
        for name in names:
            self._held[name] = self._held.get(name, 0) + 1
        self._size += (size - self._size) * _SLOWER

    def let_go(self, name: str) -> None:
        """Count a delivery as held no more without learning from it."""
        left = self._held.get(name, 0) - 1
        if left > 0:
            self._held[name] = left
        else:
            self._held.pop(name, None)

    def learn(self, name: str, runtime: float) -> None:
        """Count a delivery as done that ran for ``runtime`` seconds."""
        self.let_go(name)
        known = self._estimates.get(name)
        if known is None:
            estimate = runtime
        else:
            estimate = known + (runtime - known) * (_SLOWER if runtime > known else _FASTER)
        self._estimates[name] = estimate
        self._typical += (estimate - self._typical) * _SLOWER

    def work(self) -> float:
        """Return the seconds of work held, as far as known."""
        estimate = self._estimates.get
        return sum(count * estimate(name, self._target) for name, count in self._held.items())

    def room(self, idle_lanes: int) -> int:
        """Return how many more to receive now: 0 = enough is held."""
        spare = self._target * self._lanes - self.work()
        by_time = int(spare / max(self._typical, 1e-6)) if spare > 0 else 0
        by_size = int(MOST_BYTES / self._size) + 1 if self._size else self._most
        held = self.held
        room = min(by_time, by_size - held, self._most - held)
        # Few and large receives: wait until half of what may be held is gone.
        return max(room if room >= held else 0, idle_lanes - held, 0)
