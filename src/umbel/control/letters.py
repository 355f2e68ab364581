"""Dead letters: found by task, reason, time and queue, and sent again or deleted, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from umbel.opened import Servers
from umbel.servers.seams import DeadLetter, Ledger

#: Letters that are read, or acted on, in one round trip.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant: those that all of this is true of; what is empty excludes none."""

    task_ids: frozenset[str] = frozenset()
    #: Names of tasks, with * and ? as in names of files.
    tasks: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    #: What the reason contains, in any case.
    reason: str = ""
    #: Wall times.
    died_since: float | None = None
    died_before: float | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Tell whether this letter is meant."""
        return (
            (not self.task_ids or letter.message.id in self.task_ids)
            and (not self.tasks or any(fnmatchcase(task_of(letter), each) for each in self.tasks))
            and (not self.queues or letter.queue in self.queues)
            and self.reason.lower() in letter.reason.lower()
            and (self.died_since is None or letter.died_at >= self.died_since)
            and (self.died_before is None or letter.died_at < self.died_before)
        )


def task_of(letter: DeadLetter) -> str:
    """Return the name of its task; "" if it says none."""
    name = letter.message.headers.get("task")
    return name if isinstance(name, str) else ""


def find_letters(servers: Servers, wanted: Wanted) -> Iterator[DeadLetter]:
    """Yield the letters that are meant, oldest first, reading them page by page."""
    ledger, after = _ledger(servers), ""
    while page := ledger.dead_letters(limit=PAGE, after=after):
        yield from filter(wanted.takes, page)
        after = page[-1].key


def requeue(servers: Servers, letters: Sequence[DeadLetter]) -> Iterator[tuple[int, int]]:
    """Send letters to their queues again; yield page by page how many were tried and were sent.

    Their results are forgotten before, so that who asks from now on waits for the new ones.
    """
    ledger = _ledger(servers)
    for page in _pages(letters):
        servers.results.forget([each.message.id for each in page])
        yield len(page), ledger.requeue([each.key for each in page])


def drop(servers: Servers, letters: Sequence[DeadLetter]) -> Iterator[tuple[int, int]]:
    """Delete letters, page by page; yield how many were tried and how many it did."""
    ledger = _ledger(servers)
    for page in _pages(letters):
        yield len(page), ledger.drop([each.key for each in page])


def _pages(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    return (letters[start : start + PAGE] for start in range(0, len(letters), PAGE))


def _ledger(servers: Servers) -> Ledger:
    return servers.ledger_for("dead letters that can be listed")
