"""How long to wait before trying again: for task retries, and for our own reconnecting."""

from __future__ import annotations

import random
from collections.abc import Callable


def exponential(
    attempt: int,
    factor: float = 1.0,
    *,
    maximum: float = 600.0,
    jitter: bool = True,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float:
    """Return ``factor * 2**attempt`` seconds, at most ``maximum``; with jitter, a part of it.

    ``attempt`` counts from 0. Full jitter, as described in the AWS architecture blog's
    "Exponential Backoff And Jitter".
    """
    ceiling = min(maximum, factor * 2.0 ** min(attempt, 64))
    return uniform(0.0, ceiling) if jitter else ceiling
