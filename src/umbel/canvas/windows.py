"""Long chains: a message carries a window of their links, the rest is kept once in the store.

Whole, a chain of 20,000 links is 20,000 messages of 5 MB at first: each carries all that follow it.
So one with more than ``task_whole_chain`` links is cut into windows. Each ends with a link to a
small task of ours, which reads the next window from the result store and goes on with it; if a link
fails, the failure takes the same way, for every later id was given out.

Workers of Celery do not know that task, so a chain that may meet one must go whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umbel.message import ResultRecord
from umbel.serializers import json_dumps, json_loads
from umbel.states import SUCCESS
from umbel.values import value

#: The task that goes on with a chain.
CONTINUE = "umbel.continue_chain"
#: Links in a window: their bytes are encoded and decoded once for each of them.
WINDOW = 100


@value
class Kept:
    """A window that is kept in the store."""

    key: str
    links: list[Any]

    def record(self, expires_in: float | None) -> ResultRecord:
        """Return it as the store keeps it."""
        return ResultRecord(self.key, json_dumps({"links": self.links}), SUCCESS, expires_in)


def cut(links: list[Any], chain_id: str, whole: int) -> tuple[list[Any], list[Kept]]:
    """Return the links that are sent, and the windows that are kept if there are too many links."""
    if not whole or len(links) <= whole:
        return links, []
    pieces = [links[start : start + WINDOW] for start in range(0, len(links), WINDOW)]
    for number, piece in enumerate(pieces[:-1], 1):
        piece.append(_continuation(chain_id, number))
    kept = [Kept(key_of(chain_id, number), piece) for number, piece in enumerate(pieces)]
    return pieces[0], kept[1:]


def key_of(chain_id: str, number: int) -> str:
    """Return under which id a window is kept."""
    return f"umbel-chain-{chain_id}-{number}"


def links_in(stored: bytes) -> list[Any]:
    """Return the links of a window."""
    links: list[Any] = json_loads(stored)["links"]
    return links


def continuations(nodes: Sequence[Any]) -> list[Any]:
    """Return those of these tasks that go on with a chain."""
    return [each for each in nodes if each.get("task") == CONTINUE]


def _continuation(chain_id: str, number: int) -> dict[str, Any]:
    return {
        "task": CONTINUE,
        "args": [],
        "kwargs": {"chain": chain_id, "window": number},
        "options": {"task_id": f"{chain_id}-{number}"},
        "subtask_type": None,
        "immutable": False,
    }
