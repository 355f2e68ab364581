"""Wait for what happened instead of sleeping until it should have.

    with Probe() as probe:
        work()
        probe.wait_for("delivery.committed", timeout=5)

A probe is one more listener of ``umbel.telemetry``. It belongs to the test that made it; events
come from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from umbel.clock import SYSTEM_CLOCK
from umbel.telemetry import listen

#: Seconds a wait may take until it fails.
TIMEOUT = 30.0


class Probe:
    """Collects telemetry events while its block runs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._remove: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._remove = listen(self._collect)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._remove is not None:
            self._remove()

    def seen(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """Return the facts of each such event so far whose facts include these."""
        with self._changed:
            return [
                each
                for name, each in self._events
                if name == event and facts.items() <= each.items()
            ]

    def total(self, event: str, fact: str = "count") -> int:
        """Add up one fact of all such events so far."""
        return sum(each.get(fact, 0) for each in self.seen(event))

    def wait_for(
        self, event: str, count: int = 1, *, timeout: float = TIMEOUT, **facts: Any
    ) -> list[dict[str, Any]]:
        """Wait until so many such events were seen; return their facts."""
        described = f"{count} of {event} {facts or ''}".strip()
        self.wait_until(lambda: len(self.seen(event, **facts)) >= count, described, timeout=timeout)
        return self.seen(event, **facts)

    def wait_until(
        self, happened: Callable[[], bool], what: str, *, timeout: float = TIMEOUT
    ) -> None:
        """Wait until this is so; it is asked again after each event, of any name."""
        deadline = SYSTEM_CLOCK.monotonic() + timeout
        with self._changed:
            while not happened():
                left = deadline - SYSTEM_CLOCK.monotonic()
                if left <= 0:
                    raise AssertionError(f"waited {timeout} s for {what}; {self._summary()}")
                self._changed.wait(left)

    def _collect(self, event: str, facts: dict[str, Any]) -> None:
        with self._changed:
            self._events.append((event, facts))
            self._changed.notify_all()

    def _summary(self) -> str:
        if not self._events:
            return "nothing was emitted"
        last = ", ".join(f"{name} {facts}" for name, facts in self._events[-20:])
        return f"the last of {len(self._events)} events: {last}"
