"""Suggestions for misspelt names, for the end of an error's message."""

from __future__ import annotations

from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``; did you mean 'x'?``, or "" when nothing known is similar."""
    import difflib  # noqa: PLC0415 -- only errors need it

    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""
