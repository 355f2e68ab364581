"""The coroutine task, apart from the others: only the case about coroutines loads asyncio."""

from __future__ import annotations

import asyncio

from bench import tasks


async def nap(seconds: float) -> float:
    """Sleep, then note it."""
    await asyncio.sleep(seconds)
    tasks.probe().mark()
    return seconds
