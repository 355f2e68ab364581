"""What most tests of an application begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from umbel import Task, Umbel
from umbel.ids import new_id


@pytest.fixture
def app() -> Iterator[Umbel]:
    """The current application, on a server of its own in memory."""
    with Umbel("shop", f"memory://{new_id()}") as made:
        yield made


@pytest.fixture
def add(app: Umbel) -> Task[..., int]:
    @app.task(name="add")
    def add(x: int, y: int = 0, *, z: int = 0) -> int:
        return x + y + z

    return add
