"""Counts Python-level calls: exact, where times are noisy."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def python_calls(function: Callable[[], object]) -> list[str]:
    """Return the names of all Python functions that ``function`` calls, one for each call."""
    called: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            called.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")

    gc.disable()  # a collection would call finalizers, and who watches it, in between
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return called
