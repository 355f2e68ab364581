"""Looking at what goes on, and stepping in: what the command line shows and does, for programs.

nodes      who works: the records that nodes keep in the ledger
queues     what waits, and who consumes it
why        why a task does not run: facts, and the answer to them
revoking   calling tasks off
letters    dead letters, found by task, reason, time and queue

Nothing here talks to a worker: all of it is read from, or left in, the queues and the ledger, so it
holds for workers that start later and needs none that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from umbel.control.revoking import REMEMBERED, revoke
from umbel.opened import Servers

__all__ = ["Control"]


class Control:
    """``app.control``."""

    def __init__(self, servers: Callable[[], Servers]) -> None:
        self._servers = servers

    def revoke(
        self,
        task_id: str | Iterable[str],
        *,
        terminate: bool = False,
        signal: str | int | None = None,
        expires: float = REMEMBERED,
    ) -> None:
        """Call tasks off, one or many: a worker that receives one stores REVOKED instead.

        It is kept in the ledger for ``expires`` seconds, so it survives restarts and holds for
        workers that start later. With ``terminate`` what runs is ended by the signal (TERM): a
        coroutine is cancelled, for any other task its process ends and another takes its place; in
        the pools "threads" and "solo" only coroutines can be ended.
        """
        ids = [task_id] if isinstance(task_id, str) else task_id
        revoke(self._servers(), ids, terminate=terminate, signal=signal, expires_in=expires)

    def terminate(self, task_id: str | Iterable[str], signal: str | int | None = None) -> None:
        """Call tasks off, and end them where they run."""
        self.revoke(task_id, terminate=True, signal=signal)
