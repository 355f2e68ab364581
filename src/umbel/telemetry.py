"""The one observer mechanism: components emit events, listeners make logs and metrics of them.

``emit("delivery.committed", count=3)`` costs one call and a loop over an empty tuple when nobody
listens. Event names are dotted, facts are plain values. Emitting is for batches and for things that
happen, never for each message on the hot path. Listeners run in the emitting thread, must be quick
and must not raise. The tuple of listeners belongs to the process; it is replaced, never mutated, so
that emitting needs no lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]

_listeners: tuple[Listener, ...] = ()
_changing = threading.Lock()


def emit(event: str, **facts: Any) -> None:
    """Tell every listener that something happened."""
    for listener in _listeners:
        listener(event, facts)


def listen(listener: Listener) -> Callable[[], None]:
    """Add a listener; call what is returned to remove it. Any thread."""
    global _listeners  # noqa: PLW0603 -- the one registry of the process, replaced under a lock
    with _changing:
        _listeners = (*_listeners, listener)

    def remove() -> None:
        global _listeners  # noqa: PLW0603 -- see above
        with _changing:
            _listeners = tuple(each for each in _listeners if each is not listener)

    return remove


@contextmanager
def listening(listener: Listener) -> Generator[None]:
    """Listen while the block runs."""
    remove = listen(listener)
    try:
        yield
    finally:
        remove()
