"""How long to wait before trying again: for task retries, and for our own reconnecting."""

from __future__ import annotations


def exponential(
    attempt: int,
    factor: float = 1.0,
    *,
    maximum: float = 600.0,
    jitter: bool = True,
) -> float:
    """Return ``factor * 2**attempt`` seconds, at most ``maximum``; with jitter, a part of it.

    ``attempt`` counts from 0. Full jitter, as described in the AWS architecture blog's
    "Exponential Backoff And Jitter".
    """
    ceiling = min(maximum, factor * 2.0 ** min(attempt, 64))
    if not jitter:
        return ceiling
    import random  # noqa: PLC0415 -- five modules that a program which never waits does not need

    return random.uniform(0.0, ceiling)
