"""What tasks print becomes lines of the log."""

from __future__ import annotations

import io
import logging

import pytest

from umbel.cli.printed import Printed
from umbel.log import task_logger


def test_each_line_is_a_record(caplog: pytest.LogCaptureFixture) -> None:
    printed = Printed(io.StringIO(), logging.WARNING)
    with caplog.at_level(logging.INFO, logger=task_logger.name):
        print("one\ntw", end="", file=printed)
        print("o", "", "three", sep="\n", file=printed)
    assert caplog.messages == ["one", "two", "three"]


def test_a_handler_that_prints_does_not_log_that() -> None:
    real = io.StringIO()
    printed = Printed(real, logging.WARNING)

    class Prints(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("failed:", record.getMessage(), file=printed)

    handler = Prints()
    task_logger.addHandler(handler)
    try:
        print("text", file=printed)
    finally:
        task_logger.removeHandler(handler)
    assert real.getvalue() == "failed: text\n"
