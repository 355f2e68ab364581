"""What tasks print, line by line in the log (``worker_redirect_stdouts``)."""

from __future__ import annotations

import io
import sys
import threading
from typing import TextIO

from umbel import signals
from umbel.cli.logs import level_named
from umbel.config import Config
from umbel.log import task_logger


class Printed(io.TextIOBase):
    """Stands in for stdout or stderr while tasks run: what they print is logged line by line."""

    def __init__(self, real: TextIO, level: int) -> None:
        super().__init__()
        self._real = real
        self._level = level
        self._local = _Line()

    def write(self, text: str) -> int:
        local = self._local
        if local.logging:  # a handler that fails prints that: not into itself
            return self._real.write(text)
        *lines, local.begun = (local.begun + text).split("\n")
        local.logging = True
        try:
            for line in filter(str.strip, lines):
                task_logger.log(self._level, "%s", line)
        finally:
            local.logging = False
        return len(text)

    def flush(self) -> None:
        self._real.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._real.fileno()


class _Line(threading.local):
    """What a thread has printed since its last line's end, and whether it is logging just now."""

    begun = ""
    logging = False


def redirect_output(conf: Config) -> None:
    """Let what is printed in this process go to the log, if the configuration wants that."""
    if conf.worker_redirect_stdouts and not signals.setup_logging.has_receivers():
        level = level_named(conf.worker_redirect_stdouts_level)
        sys.stdout = Printed(sys.stdout, level)
        sys.stderr = Printed(sys.stderr, level)
