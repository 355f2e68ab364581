"""Beat: sends what is due. Start as many as you like; one leads.

lead       who leads: a lease with a token, or an exclusive queue
agenda     what is due next: a heap
sending    from a due time to a tick: the message, the overlap, the record
source     entries from elsewhere
scheduler  the loop
"""

from __future__ import annotations

from umbel.beat.scheduler import Scheduler, scheduler_for
from umbel.beat.source import source_of
from umbel.scheduling.given import EntrySource

__all__ = ["EntrySource", "Scheduler", "scheduler_for", "source_of"]
