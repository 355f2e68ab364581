"""What a worker logs, what it costs when it does not, and whose loggers it touches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from umbel import Umbel, get_task_logger, signals
from umbel.cli.logs import level_named, set_up_logging, task_hooks
from umbel.clock import SYSTEM_CLOCK
from umbel.config import Config
from umbel.context import current_request
from umbel.exceptions import Ignore
from umbel.message import Outcome
from umbel.states import FAILURE, IGNORED, RETRY, SUCCESS
from umbel.wire.task import Request

app = Umbel("logs", set_as_current=False)
REQUEST = Request(id="id-1", task="logs.work")


@app.task(name="logs.work", throws=(LookupError,))
def work() -> None:
    """Stand for any task."""


Written = Callable[[], str]


@pytest.fixture(autouse=True)
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What was written to stderr; loggers are as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "umbel", "umbel.task", "umbel.worker")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield lambda: capsys.readouterr().err
    for each, handlers, level, propagate in before:
        each.handlers[:] = handlers
        each.setLevel(level)
        each.propagate = propagate


def set_up(level: int = logging.INFO, **settings: Any) -> None:
    set_up_logging(Config(settings, environ={}, folder="/"), level)


def log(outcome: Outcome, level: int = logging.INFO) -> None:
    """Log that a task ended so."""
    set_up(level, worker_log_format="%(levelname)s %(message)s")
    _, after = task_hooks(app.tasks)
    for hook in after:
        hook(REQUEST, outcome)


# --- lines of tasks


def test_success(written: Written) -> None:
    log(Outcome(SUCCESS, 5, runtime=0.0123))
    assert written() == "INFO Task logs.work[id-1] succeeded in 0.012300s: 5\n"


def test_a_large_result_is_cut(written: Written) -> None:
    log(Outcome(SUCCESS, "x" * 1_000_000))
    assert 1000 < len(written()) < 1200


def test_the_task_decides_where_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    monkeypatch.setattr(work, "resultrepr_maxsize", 20)
    log(Outcome(SUCCESS, "x" * 100))
    assert written().endswith(": 'xxxxxxxxxxxxxxxx...\n")


def test_failure_has_the_traceback(written: Written) -> None:
    outcome = Outcome(FAILURE, error=ValueError("boom"), traceback="Traceback: …\n", runtime=1.5)
    expected = (
        "ERROR Task logs.work[id-1] failed after 1.500000s: ValueError('boom')\nTraceback: …\n"
    )
    for level in (logging.INFO, logging.ERROR):
        log(outcome, level)
        assert written() == expected


def test_expected_failure_is_one_line(written: Written) -> None:
    outcome = Outcome(FAILURE, error=KeyError("k"), traceback="Traceback: …\n")
    log(outcome)
    assert written() == "INFO Task logs.work[id-1] raised expected: KeyError('k')\n"


def test_retry_says_when_and_why(written: Written) -> None:
    outcome = Outcome(RETRY, error=OSError("off"), not_before=SYSTEM_CLOCK.now() + 3600)
    log(outcome)
    line = written()
    assert line.startswith("INFO Task logs.work[id-1] retry in 3")
    assert line.endswith("s: OSError('off')\n")


def test_other_ends(written: Written) -> None:
    log(Outcome(IGNORED, error=Ignore("why")))
    assert written() == "INFO Task logs.work[id-1] ignored: Ignore('why')\n"


def test_reception(written: Written) -> None:
    set_up(worker_log_format="%(levelname)s %(message)s")
    before, _ = task_hooks(app.tasks)
    for hook in before:
        hook(REQUEST)
    assert written() == "INFO Task logs.work[id-1] received\n"


def test_lines_that_are_not_shown_are_not_compiled_into_tasks() -> None:
    set_up(logging.WARNING)
    before, after = task_hooks(app.tasks)
    assert (len(before), len(after)) == (0, 1)  # a failure must be seen
    set_up(logging.CRITICAL)
    assert task_hooks(app.tasks) == ((), ())


def test_names_and_ids_are_there_for_structured_logs(written: Written) -> None:
    set_up(worker_log_format="%(task_name)s %(task_id)s")
    _, after = task_hooks(app.tasks)
    after[0](REQUEST, Outcome(SUCCESS))
    assert written() == "logs.work id-1\n"


# --- formats


def test_celerys_format(written: Written) -> None:
    set_up()
    logging.getLogger("umbel.worker").info("up")
    line = written()
    assert line.startswith("[2")
    assert line.endswith(": INFO/MainProcess] up\n")


def test_another_process_is_named(written: Written) -> None:
    set_up_logging(Config(environ={}, folder="/"), logging.INFO, main=1)
    logging.getLogger("umbel.worker").info("up")
    assert written().endswith(f": INFO/Worker-{os.getpid()}] up\n")


def test_lines_of_tasks_name_the_task(written: Written) -> None:
    set_up(worker_task_log_format="%(task_name)s[%(task_id)s] %(message)s")
    logger = get_task_logger("shop.tasks")
    token = current_request.set(REQUEST)
    logger.info("inside")
    current_request.reset(token)
    logger.info("outside")
    assert written() == "logs.work[id-1] inside\n???[???] outside\n"


def test_the_level_counts_for_tasks_too(written: Written) -> None:
    set_up(logging.WARNING)
    get_task_logger("shop.tasks").info("not shown")
    assert written() == ""


def test_what_stands_out_has_a_colour_if_wanted(written: Written) -> None:
    config = Config({"worker_log_format": "%(message)s"}, environ={}, folder="/")
    set_up_logging(config, logging.INFO, color=True)
    logging.getLogger("umbel").error("bad")
    logging.getLogger("umbel").info("good")
    assert written() == "\x1b[31mbad\x1b[0m\ngood\n"


# --- whose loggers


def test_the_root_logger_is_left_alone(written: Written) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    set_up()
    assert (root.handlers, root.level) == before
    logging.getLogger("theirs").info("theirs")
    assert written() == ""


def test_the_root_logger_is_set_up_if_asked(written: Written) -> None:
    set_up(worker_hijack_root_logger=True, worker_log_format="%(message)s")
    logging.getLogger("theirs").info("theirs")
    logging.getLogger("umbel.worker").info("ours")
    assert written() == "theirs\nours\n"


def test_a_receiver_of_setup_logging_does_it_all(written: Written) -> None:
    facts: dict[str, Any] = {}

    def receiver(**given: Any) -> None:
        facts.update(given)

    signals.setup_logging.connect(receiver)
    try:
        set_up(worker_log_format="%(message)s")
    finally:
        signals.setup_logging.disconnect(receiver)
    assert (facts["loglevel"], facts["format"]) == (logging.INFO, "%(message)s")
    assert written() == ""
    assert not logging.getLogger("umbel").handlers


def test_who_wants_to_add_to_it_is_told() -> None:
    loggers = []

    def receiver(**given: Any) -> None:
        loggers.append(given["logger"].name)

    signals.after_setup_logger.connect(receiver)
    signals.after_setup_task_logger.connect(receiver)
    try:
        set_up()
    finally:
        signals.after_setup_logger.disconnect(receiver)
        signals.after_setup_task_logger.disconnect(receiver)
    assert loggers == ["umbel", "umbel.task"]


def test_umbels_own_loggers_are_not_for_tasks() -> None:
    with pytest.raises(RuntimeError, match="get_task_logger"):
        get_task_logger("umbel.worker")
    assert get_task_logger("a.b") is get_task_logger("a.b")


@pytest.mark.parametrize(
    ("name", "level"), [("info", 20), ("WARNING", 30), ("15", 15), ("fatal", 50), ("Debug", 10)]
)
def test_levels_have_names_and_numbers(name: str, level: int) -> None:
    assert level_named(name) == level


@pytest.mark.parametrize("name", ["loud", "", "-1", "1.5"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}$"):
        level_named(name)
