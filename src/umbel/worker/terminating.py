"""Ending tasks that run, because they were revoked with a signal.

    control.revoke(…, terminate=True) ─> ledger ─> the node, in each turn ─> the board
        a coroutine            its process cancels it; if that does not end it, as below
        a process's own task   the supervisor sends the process the signal
        a thread beside others runs on: Python cannot end a thread, and its process is others' too

The node asks the ledger once a second, and only while something runs. An order on the board names
the very run that is meant, so it cannot strike the next task in the same place. What else ran in
a process that was ended goes back uncharged. The task itself is delivered again, and since it is
revoked it ends as REVOKED then, wherever that is: so nothing is lost if we die in between.
"""

from __future__ import annotations

import logging
import signal

from umbel.clock import SYSTEM_CLOCK
from umbel.servers.seams import Ledger, Revocation
from umbel.worker.board import LIVING, Board, Running, Slot
from umbel.worker.processes import send

logger = logging.getLogger("umbel.worker")

#: Tells a process to cancel the coroutines that the board names; ignored by any other program.
CANCEL = signal.SIGURG
#: Seconds that a coroutine has to end when it is cancelled, and a process after another signal
#: than TERM.
GRACE = 2.0

_monotonic = SYSTEM_CLOCK.monotonic

#: A run: consumer and start.
_Run = tuple[str, float]


class Terminator:
    """Looks for tasks that shall end. Owned by the node's thread."""

    def __init__(self, board: Board, *, lanes: int, ends_processes: bool) -> None:
        self._board = board
        self._lanes = lanes
        self._ends_processes = ends_processes
        #: When the end of a run was first asked for.
        self._asked: dict[_Run, float] = {}

    def look(self, ledger: Ledger) -> None:
        """Order the end of whatever runs and shall not. Raises TransportError."""
        runs = [(slot, task) for slot in self._board.in_state(*LIVING) for task in slot.running()]
        current = {(slot.consumer_id, task.started) for slot, task in runs}
        self._asked = {run: at for run, at in self._asked.items() if run in current}
        revoked = ledger.revoked([task.id for _, task in runs]) if runs else {}
        for slot, task in runs:
            revocation = revoked.get(task.id)
            if revocation is not None and revocation.signal:
                self._end(slot, task, revocation)

    def _end(self, slot: Slot, task: Running, revocation: Revocation) -> None:
        run, now = (slot.consumer_id, task.started), _monotonic()
        is_new = run not in self._asked
        asked_at = self._asked.setdefault(run, now)
        if task.index >= self._lanes and now - asked_at < GRACE:
            slot.order(task, CANCEL)
            send(slot.pid, CANCEL)
        elif self._ends_processes:
            slot.order(task, signal_number(revocation.signal))
        elif is_new:
            logger.warning(
                "%s[%s] shall be terminated, but runs in a thread, which nobody can end",
                task.name,
                task.id,
            )
            return
        if is_new:
            logger.warning("%s[%s] is terminated by %s", task.name, task.id, revocation.by)


def signal_number(name: str) -> int:
    """Return a signal by its name; KILL for one that this system does not have."""
    return int(getattr(signal, name, signal.SIGKILL))
