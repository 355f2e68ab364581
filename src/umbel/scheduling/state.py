"""How far an entry has come: what is kept beside its last due time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from umbel.servers.timetable import Progress


@dataclass(frozen=True, slots=True)
class State:
    """What is known of an entry's runs. Times are wall times."""

    #: The last due time that was dealt with; at first, when it began.
    due_at: float
    #: When it began: intervals are counted from here.
    anchor: float
    #: What its due times follow from; see ``Entry.rhythm``.
    rhythm: str
    #: When the last run was sent; 0 = never.
    sent_at: float = 0.0
    #: The last run's id.
    task_id: str = ""
    runs: int = 0
    #: Due times that were not sent, because of the policy or the overlap.
    missed: int = 0
    #: What became of the last due time, unless it was sent in time.
    note: str = ""
    #: It was paused when it was last looked at.
    paused: bool = False

    @classmethod
    def begin(cls, now: float, rhythm: str) -> State:
        """Return the state of an entry that begins."""
        now = round(now, 6)
        return cls(now, now, rhythm)

    def begun_anew(self, now: float, rhythm: str, note: str) -> State:
        """Return the state of an entry that goes on from now under this schedule."""
        now = round(now, 6)
        return replace(self, due_at=now, anchor=now, rhythm=rhythm, note=note, paused=False)

    def resumed(self, now: float) -> State:
        """Return the state of an entry that was paused and is not: nothing is made up for."""
        return replace(self, due_at=max(round(now, 6), self.due_at), paused=False)

    @property
    def record(self) -> str:
        """It as text, without the due time, which is kept beside it."""
        facts = asdict(self)
        del facts["due_at"]
        return json.dumps(facts, separators=(",", ":"))

    @classmethod
    def read(cls, kept: Progress) -> State | None:
        """Return what a server kept; None if it is no state."""
        try:
            return cls(due_at=kept.due_at, **json.loads(kept.record))
        except (TypeError, ValueError):
            return None
