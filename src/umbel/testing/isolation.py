"""An application with a broker of its own in memory, for the length of a test."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from umbel import context
from umbel.app import Umbel
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.servers.memory import discard
from umbel.testing.clock import FakeClock


@contextmanager
def in_memory(
    app: Umbel, settings: Mapping[str, Any] | None = None, *, clock: FakeClock | None = None
) -> Generator[FakeClock]:
    """Give an application an empty memory server and a clock that tests move, for a block.

    It is current in the block, with these settings (another ``broker_url`` among them wins, and
    then the clock moves nothing). At the end all that was changed in its configuration is undone.
    The clock stands still at the real time unless another is given.
    """
    clock = clock or FakeClock(SYSTEM_CLOCK.now())
    name = f"test-{new_id()}"
    values: dict[str, Any] = {
        "broker_url": f"memory://{name}",
        "broker_transport_options": {},
        "result_backend": None,
        **(settings or {}),
    }
    if str(values["broker_url"]).startswith("memory:"):
        values["broker_transport_options"] = {
            "clock": clock,
            **values["broker_transport_options"],
        }
    former = context.current_app_or_none()
    with app.conf.temporarily(values, source="the test"):
        app.set_current()
        try:
            yield clock
        finally:
            context.set_current_app(former)
            app.close()
            discard(name)
