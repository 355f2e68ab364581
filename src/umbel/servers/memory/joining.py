"""Joins in memory, as others see them."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.message import Join
from umbel.servers.memory.space import Space
from umbel.servers.seams import Joined


class MemoryJoins:
    """``Joins`` over a space."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def open(self, joins: Sequence[Join]) -> None:
        with self._space.lock:
            self._space.joins.open(joins)

    def enlarge(self, join_id: str, members: int) -> None:
        with self._space.lock:
            self._space.joins.enlarge(join_id, members)

    def joined(self, join_ids: Sequence[str]) -> dict[str, Joined]:
        with self._space.lock:
            return self._space.joins.joined(join_ids)

    def unclosed(self, *, older_than: float, limit: int = 100) -> Sequence[str]:
        with self._space.lock:
            return self._space.joins.unclosed(older_than, limit)
