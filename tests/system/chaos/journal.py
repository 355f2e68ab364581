"""The journal of a crash test: a file outside of the system to which every process appends lines.

One ``write`` per line to a file opened with O_APPEND, so that lines of many processes do not mix
and a line that was written survives the death of its process.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


class Journal:
    """Appends lines. Any process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())


@dataclass(slots=True)
class Account:
    """What the journal says."""

    #: Number of the task -> how often it began to run.
    runs: Counter[str] = field(default_factory=Counter)
    #: Number of the task -> ids of the follow-ups that ran.
    follow_ups: dict[str, set[str]] = field(default_factory=dict)
    #: Gap -> how often a process was killed in it, with work in flight.
    kills: Counter[str] = field(default_factory=Counter)


def read(path: Path) -> Account:
    account = Account()
    if not path.exists():
        return account
    for line in path.read_text().splitlines():
        match line.split():
            case ["ran", number]:
                account.runs[number] += 1
            case ["followed", number, task_id]:
                account.follow_ups.setdefault(number, set()).add(task_id)
            case ["killed", gap]:
                account.kills[gap] += 1
            case _:
                raise AssertionError(f"no journal line: {line!r}")
    return account
