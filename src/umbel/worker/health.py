"""Whether a worker lives: judged by the board, by everyone who is asked, in the same way.

A child consumes if its pump turns, which it does at least every two seconds, and if the broker
answers it. A worker is *ready* while some child consumes and it is not about to end; it is *alive*
unless something has been wrong for ``PATIENCE`` seconds: no child consumes, one of them does not
turn or is cut off, the node does not turn. A task that holds the interpreter lock for so long makes
its process look dead, and rightly: nothing is received there and no result leaves it.

    systemd's watchdog   pinged by the supervisor, as long as the worker is alive
    /livez, /readyz      answered by the node
    a health file        touched by the node while the worker is alive, and gone when it is not
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ImproperlyConfigured
from umbel.worker.board import Board, Slot, SlotState

#: Seconds for which something may be wrong before the worker counts as dead.
PATIENCE = 30.0
#: Seconds without a turn after which a child does not count as consuming.
SILENCE = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """How a worker is."""

    alive: bool
    ready: bool
    #: Children that consume, and those that are there.
    consuming: int
    processes: int
    #: What is wrong.
    why: tuple[str, ...]

    def as_json(self) -> str:
        """Return it for machines and people."""
        return json.dumps(asdict(self)) + "\n"


def judge(board: Board, now: float) -> Health:
    """Say how a worker is at this monotonic time."""
    ready = board.in_state(SlotState.READY)
    consuming = sum(1 for slot in ready if _consumes(slot, now))
    why = [text for slot in ready if (text := _wrong(slot, now))]
    if board.node_turned_at and now - board.node_turned_at > PATIENCE:
        why.append(f"the node has not turned for {now - board.node_turned_at:.0f} s")
    stops = bool(board.in_state(SlotState.STOPPING)) and not ready
    if board.consumed_at and not stops and now - board.consumed_at > PATIENCE:
        why.append(f"no process has consumed for {now - board.consumed_at:.0f} s")
    there = board.in_state(SlotState.STARTING, SlotState.READY, SlotState.STOPPING)
    return Health(
        alive=not why,
        ready=consuming > 0,
        consuming=consuming,
        processes=len(there),
        why=tuple(why),
    )


def watch(board: Board) -> Health:
    """Judge now, and remember it if some child consumes. For the supervisor."""
    now = SYSTEM_CLOCK.monotonic()
    health = judge(board, now)
    if health.consuming or not board.consumed_at:
        board.consumed_at = now
    return health


def claim(path: Path) -> None:
    """See whether the health file can be written; raises ImproperlyConfigured."""
    try:
        path.touch()
    except OSError as error:
        raise ImproperlyConfigured(f"--health-file {path}: {error.strerror}") from error


def show(health: Health, path: Path) -> None:
    """Touch the health file, or take it away."""
    with contextlib.suppress(OSError):  # a full disk: it becomes old, and that says it all
        if health.alive:
            path.write_text(health.as_json())
        else:
            path.unlink(missing_ok=True)


def _consumes(slot: Slot, now: float) -> bool:
    return not slot.trouble.since and now - slot.turned_at <= SILENCE


def _wrong(slot: Slot, now: float) -> str:
    if now - slot.turned_at > PATIENCE:
        return f"process {slot.pid} has not turned for {now - slot.turned_at:.0f} s"
    down_since = slot.trouble.since
    if down_since and now - down_since > PATIENCE:
        return f"process {slot.pid} has had no broker for {now - down_since:.0f} s"
    return ""
