"""Times on the wire: ISO 8601 text in headers and results, wall seconds inside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from umbel.exceptions import InvalidTaskError

#: datetime.fromtimestamp as one C call; a bound method needs no look-up each time.
_from_timestamp = datetime.fromtimestamp


def to_iso(at: float) -> str:
    """Return wall seconds as Celery writes them by default: UTC with its offset."""
    return _from_timestamp(at, UTC).isoformat()


def from_iso(text: str, *, utc: bool = True) -> float:
    """Return wall seconds. A text without an offset is UTC, or else this machine's time.

    Raises InvalidTaskError when it is no time.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None and utc:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise InvalidTaskError(f"expected an ISO 8601 time, got {text!r:.80}") from error


def due(headers: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return ``not_before`` and ``expires_at`` of a message with these headers.

    For servers that keep no such columns. Unreadable times count as unset here: decoding the task
    refuses them later, and says why.
    """
    not_before = _lenient(headers.get("eta"))
    return not_before or 0.0, _lenient(headers.get("expires"))


def _lenient(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        return from_iso(text)
    except InvalidTaskError:
        return None
