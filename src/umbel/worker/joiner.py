"""Sends the bodies of chords whose headers have ended.

A commit says which joins it completed, and whoever committed it releases them at once: reads what
the members left, makes the body, and commits that with the join's end, which the server performs
once. If he dies in between, a node finds the join in one of its regular turns (``sweep``). Both may
try at the same time: one of them finds it closed.

Nothing here has state; any thread may call it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from umbel import telemetry
from umbel.servers.seams import Committer, Joins
from umbel.worker.service import Service

logger = logging.getLogger("umbel.worker")

#: Seconds that a complete join is left to whoever completed it.
PATIENCE = 5.0


class Joiner:
    """Releases joins of one application."""

    def __init__(self, service: Service, *, joins: Joins, committer: Committer) -> None:
        self._service = service
        self._joins = joins
        self._committer = committer

    def release(self, join_ids: Iterable[str]) -> None:
        """Send the bodies of these joins, and of those that this completes."""
        waiting = deque(join_ids)
        while waiting:
            join_id = waiting.popleft()
            joined = self._joins.joined([join_id]).get(join_id)
            if joined is None:
                continue
            telemetry.emit("join.releasing", id=join_id, count=len(joined.parts))
            try:
                effects = self._service.release(join_id, joined)
            except Exception:  # what is stored may be anybody's: it must not end the worker
                logger.exception("The body of chord %s cannot be made; it is tried again", join_id)
                continue
            report = self._committer.commit([effects])
            waiting += report.joined
            for refusal in report.refused:
                failure = self._service.release_failed(join_id, joined, refusal.error)
                waiting += self._committer.commit([failure]).joined
            telemetry.emit("join.released", id=join_id, count=len(joined.parts))

    def sweep(self, older_than: float = PATIENCE) -> None:
        """Release what others left behind so many seconds ago."""
        self.release(self._joins.unclosed(older_than=older_than))
