"""Outages, told to the operator: once when one begins, once with its length when it is over.

Each process says on the board whether servers answer it (broker, result store, ledger: the error
names which). Who looks at the board speaks for all of them: the supervisor, or the only process.
Processes notice an outage one after the other, and some are connected again before others have
noticed; so it is over when nobody has seen anything of it for a while.
"""

from __future__ import annotations

import logging

from umbel.worker.board import Board

logger = logging.getLogger("umbel.worker")

#: Seconds without trouble after which an outage is over.
CALM = 1.0


class Outages:
    """Owned by the thread that looks."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._since = self._seen_at = 0.0

    def look(self, now: float) -> None:
        """Tell what has begun or ended since the last look."""
        if troubles := self._board.troubles():
            self._seen_at = now
            if not self._since:
                first = min(troubles, key=lambda trouble: trouble.since)
                self._since = first.since
                logger.error("A server does not answer, trying again: %s", first.why)
        elif self._since and now - self._seen_at >= CALM:
            seconds = self._seen_at - self._since
            logger.warning("The servers answer again after %.1f s", seconds)
            self._since = 0.0
