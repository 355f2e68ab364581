"""Loggers for tasks: their lines carry the task's name and id (see ``worker_task_log_format``)."""

from __future__ import annotations

import logging

from umbel.context import current_request

#: Where the lines of tasks go; a worker gives it a handler that formats them.
task_logger = logging.getLogger("umbel.task")


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of this name, with what it logs going where the worker logs tasks."""
    if name.partition(".")[0] == "umbel":
        raise RuntimeError(
            f"the logger {name!r} is umbel's own: expected get_task_logger(__name__)"
        )
    logger = logging.getLogger(name)
    if not _is_below(logger, task_logger):
        logger.parent = task_logger
    return logger


def _is_below(logger: logging.Logger, above: logging.Logger) -> bool:
    at: logging.Logger | None = logger
    while at is not None:
        if at is above:
            return True
        at = at.parent
    return False


#: Stands for the name and the id of a task where none runs.
NO_TASK = "???"


class TaskFormatter(logging.Formatter):
    """Knows ``%(task_name)s`` and ``%(task_id)s``: the task that runs here, else ``???``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        request = current_request.get()
        record.__dict__.setdefault("task_id", request.id if request else NO_TASK)
        record.__dict__.setdefault("task_name", request.task if request else NO_TASK)
        return super().format(record)


__all__ = ["NO_TASK", "TaskFormatter", "get_task_logger", "task_logger"]
