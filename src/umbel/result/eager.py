"""The result of a task that ran where it was called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from umbel import states
from umbel.result.record import R_co
from umbel.result.results import AsyncResult


class EagerResult(AsyncResult[R_co]):
    """The result of a task that ran where it was called: it is known, no store is asked.

    An exception is the very one that was raised, with its traceback.
    """

    __slots__ = ()

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        *,
        children: Iterable[Any] = (),
    ) -> None:
        super().__init__(id, task_name=name)
        self._meta = {
            "status": state,
            "result": ret_value,
            "traceback": traceback,
            "children": list(children),
            "task_id": id,
        }

    def ready(self) -> bool:
        """Return True."""
        return True

    def drop(self) -> None:
        """Keep it: there is nowhere to ask again."""

    def forget(self) -> None:
        """Do nothing: there is nothing stored."""

    def revoke(self, *_: Any, **__: Any) -> None:
        """Say that it was revoked, which comes too late."""
        self._meta = {**self.meta(), "status": states.REVOKED}

    def __reduce__(self) -> Any:
        """Travel with its value."""
        meta = self.meta()
        return EagerResult, (self.id, meta["result"], meta["status"], meta["traceback"], self.name)
