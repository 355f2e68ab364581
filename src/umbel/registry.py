"""The tasks of an application by name, and names."""

from __future__ import annotations

from typing import Any, TypeAlias

from umbel.exceptions import AlreadyRegistered, NotRegistered
from umbel.task import Task

AnyTask: TypeAlias = Task[..., Any]

#: What ``shared_task`` made: every application has these.
shared: list[AnyTask] = []


class TaskRegistry(dict[str, AnyTask]):
    """Tasks by name."""

    def __missing__(self, name: str) -> AnyTask:
        """Say that there is no such task."""
        raise NotRegistered(name)

    def register(self, task: AnyTask) -> None:
        """Add a task under its name.

        A definition made again (a module reloaded) replaces the former one; another one of the same
        name is refused with AlreadyRegistered.
        """
        if not task.name:
            raise ValueError(f"{task!r} has no name")
        known = self.get(task.name)
        if known is not None and _definition(known) != _definition(task):
            raise AlreadyRegistered(
                f"{_definition(known)} is registered as {task.name!r} already: "
                f"give {_definition(task)} another name"
            )
        self[task.name] = task

    def unregister(self, name: str | AnyTask) -> None:
        """Remove a task; raises NotRegistered."""
        name = name if isinstance(name, str) else name.name
        if name not in self:
            raise NotRegistered(name)
        del self[name]


def _definition(task: AnyTask) -> str:
    defined = getattr(task, "__wrapped__", None) or type(task)
    return f"{defined.__module__}.{defined.__qualname__}"


def default_name(name: str, module: str, main: str | None) -> str:
    """Return a task's name unless it has one: its module's and its function's."""
    if module == "__main__" and main:
        module = main
    return f"{module}.{name}"
