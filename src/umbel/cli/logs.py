"""What a worker writes to its log, on stderr or into a file.

    umbel            what the worker says       worker_log_format
    umbel.task       what tasks say themselves  worker_task_log_format (see umbel.log)

The root logger belongs to the program and is left alone, unless ``worker_hijack_root_logger`` asks
for it. A receiver of the signal ``setup_logging`` takes over all of this.

A line per task is written by hooks that are compiled into the tasks; at a level that does not show
it there is no hook, and it costs nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Mapping
from logging.handlers import WatchedFileHandler
from typing import Any

import click

from umbel import signals, states
from umbel.bound import AfterHook, BeforeHook
from umbel.clock import SYSTEM_CLOCK
from umbel.config import Config
from umbel.log import NO_TASK, TaskFormatter, task_logger
from umbel.message import Outcome
from umbel.wire.saferepr import bounded_repr
from umbel.wire.task import Request

logger = logging.getLogger("umbel.worker")

LOG_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
TASK_LOG_FORMAT = (
    "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
)
#: Stands for a format whose lines are JSON objects.
JSON = "json"
#: What every record has, and what lines of JSON name otherwise.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
#: Levels that stand out on a terminal.
_COLORS = {"DEBUG": "blue", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "magenta"}


def level_named(name: str) -> int:
    """Return a level by its name, in any case, or its number; raises ValueError."""
    if name.isdecimal():
        return int(name)
    levels = logging.getLevelNamesMapping()
    if name.upper() not in levels:
        raise ValueError(name)
    return levels[name.upper()]


def set_up_logging(
    conf: Config,
    level: int,
    *,
    color: bool | None = None,
    main: int | None = None,
    of: str = "worker",
) -> None:
    """Give umbel's loggers their handlers; ``main`` is the supervisor, else this process.

    ``of`` whom the log file is: "worker" or "beat".
    """
    logfile = conf.value_of(f"{of}_logfile")
    form = conf.worker_log_format or LOG_FORMAT
    task_form = conf.worker_task_log_format or (JSON if form == JSON else TASK_LOG_FORMAT)
    color = conf.worker_log_color if color is None else color
    colorize = not logfile and (sys.stderr.isatty() if color is None else color)
    facts: dict[str, Any] = {
        "loglevel": level,
        "logfile": logfile,
        "colorize": colorize,
    }
    if signals.setup_logging.has_receivers():
        signals.setup_logging.send(None, format=form, **facts)
        return
    logged = logging.getLogger("umbel")
    if conf.worker_hijack_root_logger:
        logged = logging.getLogger()
    process_names = _ProcessNames(main or os.getpid())
    for each, its_form, dates in (
        (logged, form, conf.worker_log_datefmt),
        (task_logger, task_form, conf.worker_task_log_datefmt or conf.worker_log_datefmt),
    ):
        handler = _handler(logfile)
        handler.setFormatter(_formatter(its_form, dates, color=colorize))
        handler.addFilter(process_names)
        each.handlers[:] = [handler]
        each.propagate = False
        each.setLevel(level)
    signals.after_setup_logger.send(None, logger=logged, format=form, **facts)
    signals.after_setup_task_logger.send(None, logger=task_logger, format=task_form, **facts)


def _handler(logfile: str | None) -> logging.Handler:
    if not logfile:
        return logging.StreamHandler(sys.stderr)
    try:
        return WatchedFileHandler(
            logfile, errors="backslashreplace"
        )  # goes on in a new file when the old one is rotated
    except OSError as error:
        raise click.ClickException(f"--logfile {logfile}: {error.strerror}") from error


def _formatter(form: str, dates: str | None, *, color: bool) -> logging.Formatter:
    return JsonFormatter() if form == JSON else _Formatter(form, dates, color=color)


class _ProcessNames(logging.Filter):
    """Names the process in each line, by its pid; Python's own name is the same in all forks."""

    def __init__(self, main: int) -> None:
        super().__init__()
        self._main = main

    def filter(self, record: logging.LogRecord) -> bool:
        pid = os.getpid()
        record.processName = "MainProcess" if pid == self._main else f"Worker-{pid}"
        return True


class _Formatter(TaskFormatter):
    """Colours the lines that stand out."""

    def __init__(self, form: str, dates: str | None, *, color: bool) -> None:
        super().__init__(form, dates)
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        shade = _COLORS.get(record.levelname) if self._color else None
        return click.style(line, fg=shade) if shade else line


class JsonFormatter(TaskFormatter):
    """Makes each line a JSON object; what is given as ``extra`` stands beside the rest."""

    def format(self, record: logging.LogRecord) -> str:
        super().format(record)  # sets message, task_id, task_name and exc_text
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        found: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "pid": record.process,
            "message": record.message,
        }
        found.update((k, v) for k, v in vars(record).items() if k not in _STANDARD and v != NO_TASK)
        if record.exc_text:
            found["exception"] = record.exc_text
        return json.dumps(found, default=str)


def task_hooks(
    tasks: Mapping[str, Any],
) -> tuple[tuple[BeforeHook, ...], tuple[AfterHook, ...]]:
    """Return what is to be compiled into every task, for the level that is set now."""
    outcomes = _Outcomes(tasks)
    if logger.isEnabledFor(logging.INFO):
        return (_log_received,), (outcomes.log,)
    if logger.isEnabledFor(logging.ERROR):
        return (), (outcomes.log_failure,)
    return (), ()


def _log_received(request: Request) -> None:
    logger.info("Task %s[%s] received", request.task, request.id, extra=_about(request))


def _about(request: Request, outcome: Outcome | None = None) -> dict[str, Any]:
    about: dict[str, Any] = {"task_name": request.task, "task_id": request.id}
    if outcome is not None:
        about |= {"state": outcome.state, "runtime": round(outcome.runtime, 6)}
    return about


class _Outcomes:
    """Writes what became of each call. Shared by the threads that run tasks."""

    def __init__(self, tasks: Mapping[str, Any]) -> None:
        self._tasks = tasks

    def log(self, request: Request, outcome: Outcome) -> None:
        match outcome.state:
            case states.SUCCESS:
                self._log_success(request, outcome)
            case states.FAILURE:
                self.log_failure(request, outcome)
            case states.RETRY:
                wait = max(0.0, outcome.not_before - SYSTEM_CLOCK.now())
                _log(request, outcome, "retry in %.1fs: %s", wait, _in_a_line(outcome.error))
            case state:
                _log(request, outcome, "%s: %s", state.lower(), _in_a_line(outcome.error))

    def log_failure(self, request: Request, outcome: Outcome) -> None:
        if outcome.state != states.FAILURE:
            return
        task, error = self._tasks.get(request.task), outcome.error
        if error is not None and isinstance(error, tuple(getattr(task, "throws", None) or ())):
            _log(request, outcome, "raised expected: %s", _in_a_line(error))
            return
        logger.error(
            "Task %s[%s] failed after %.6fs: %s\n%s",
            request.task,
            request.id,
            outcome.runtime,
            _in_a_line(error),
            (outcome.traceback or "").rstrip(),
            extra=_about(request, outcome),
        )

    def _log_success(self, request: Request, outcome: Outcome) -> None:
        size = getattr(self._tasks.get(request.task), "resultrepr_maxsize", 1024)
        shown = bounded_repr(outcome.value, size)
        _log(request, outcome, "succeeded in %.6fs: %s", outcome.runtime, shown)


def _log(request: Request, outcome: Outcome | None, what: str, *facts: Any) -> None:
    about = _about(request, outcome)
    logger.info(f"Task %s[%s] {what}", request.task, request.id, *facts, extra=about)  # noqa: G004 -- only the pattern is put together


def _in_a_line(error: BaseException | None) -> str:
    return bounded_repr(error, 1024)
