"""Workflows, built alike by Celery and by umbel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Workflows:
    """What workflows are made of: a library's classes, and an application's tasks by name."""

    chain: Any
    group: Any
    chord: Any
    tasks: Mapping[str, Any]

    def send(self, form: str, size: int) -> tuple[Any, Any]:
        """Send a workflow of so many members; return its handle, and what its value will be."""
        call = self.tasks["noop"].s
        members = (call(number) for number in range(size))
        if form == "group":
            return self.group(members).apply_async(), None
        if form == "chord":
            return self.chord(list(members), self.tasks["take"].s()).apply_async(), size
        return self.chain([call(size), *(call() for _ in range(size - 1))]).apply_async(), size
