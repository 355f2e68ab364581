"""What happens to an object when its process forks or ends, for as long as the object lives."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from functools import partial


def call_after_fork(method: Callable[[], None]) -> None:
    """Call a bound method in every forked child, before anything else runs there."""
    os.register_at_fork(after_in_child=partial(_call, weakref.WeakMethod(method)))


def call_at_exit(method: Callable[[], None]) -> None:
    """Call a bound method when the program ends."""
    atexit.register(_call, weakref.WeakMethod(method))


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    alive = method()
    if alive is not None:
        alive()
