"""Callbacks when results come: for ``AsyncResult.then``, in the bridge's background thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from umbel.bridge.results import ResultBridge
from umbel.bridge.waiters import Passive
from umbel.exceptions import UmbelError


def tell(
    bridge: ResultBridge,
    task_ids: Collection[str],
    answered: Callable[[dict[str, bytes]], object],
    failed: Callable[[BaseException], object],
) -> None:
    """Call back in the background: with the final metas, once all have one, or with an error.

    All callbacks share one thread and must be quick.
    """
    bridge.enter(Passive(task_ids, _CallbackBell(bridge, answered, failed)))


class _CallbackBell:
    """Calls back, in the reader's thread, once the waiter has all it wanted."""

    __slots__ = ("_answered", "_bridge", "_failed", "_rung")

    def __init__(
        self,
        bridge: ResultBridge,
        answered: Callable[[dict[str, bytes]], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._bridge = bridge
        self._answered = answered
        self._failed = failed
        self._rung = False

    def ring(self, waiters: Sequence[Passive]) -> None:
        for waiter in waiters:
            if waiter.due() and not self._rung:
                self._rung = True
                self._bridge.call_soon(partial(self._answer, waiter))

    def _answer(self, waiter: Passive) -> None:
        try:
            arrivals = self._bridge.take(waiter)
        except UmbelError as error:
            self._failed(error)
        else:
            self._answered({task_id: meta for task_id, meta, _ in arrivals})
