"""Results of tasks. The first few lines of it: the whole module replaces this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from umbel import states
from umbel.wire.result import decode_meta, exception_from_wire

R = TypeVar("R")


class AsyncResult(Generic[R]):
    """The result of a task, wherever it runs."""

    __slots__ = ("app", "id", "parent")

    def __init__(self, id: str, *, app: Any = None, parent: Any = None) -> None:  # noqa: A002
        self.id = id
        self.app = app
        self.parent = parent

    def get(self, timeout: float | None = None) -> R:
        """Wait for the result and return it, or raise what the task raised."""
        meta = decode_meta(self.app.bridge.wait([self.id], timeout=timeout)[self.id])
        if meta["status"] in states.PROPAGATE_STATES:
            error = meta["result"]
            raise error if isinstance(error, BaseException) else exception_from_wire(error)
        value: R = meta["result"]
        return value


class EagerResult(AsyncResult[R]):
    """The result of a task that ran where it was called."""

    __slots__ = ("name", "state", "traceback", "value")

    def __init__(
        self,
        id: str,  # noqa: A002
        value: Any,
        state: str,
        *,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(id)
        self.value = value
        self.state = state
        self.traceback = traceback
        self.name = name

    def get(self, timeout: float | None = None) -> R:  # noqa: ARG002
        """Return the result, or raise what the task raised."""
        if self.state in states.PROPAGATE_STATES:
            raise self.value
        value: R = self.value
        return value


class ResultSet(Generic[R]):
    """Several results."""

    def __init__(self, results: Sequence[AsyncResult[R]], *, app: Any = None) -> None:
        self.results = list(results)
        self.app = app

    def get(self, timeout: float | None = None) -> list[R]:
        """Wait for all results and return them."""
        return [each.get(timeout) for each in self.results]


class GroupResult(ResultSet[R]):
    """The results of a group."""

    def __init__(
        self,
        id: str,  # noqa: A002
        results: Sequence[AsyncResult[R]],
        *,
        app: Any = None,
        parent: Any = None,
    ) -> None:
        super().__init__(results, app=app)
        self.id = id
        self.parent = parent
