"""``umbel demo``: it works on real input, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.projects import UMBEL

MODULES = 40
#: Seconds that a demo of so few modules may take on a busy machine.
TIMEOUT = 60.0


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a folder for temporary files, which is empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield {**os.environ, "TMPDIR": str(folder), "HOME": str(tmp_path)}
    assert list(folder.iterdir()) == []
    assert list(processes_of(folder)) == []


def processes_of(folder: Path) -> Iterator[str]:
    """Yield the command lines of processes that have to do with this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            yield command


def demo(*arguments: str) -> list[str]:
    return [*UMBEL, "demo", *arguments]


def test_it_reports_what_it_found_and_who_did_it(environment: dict[str, str]) -> None:
    # When it runs without a terminal
    done = subprocess.run(
        demo("--modules", str(MODULES), "-c", "2"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    # Then
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert f"analysed {MODULES} of {MODULES} modules" in text
    assert re.search(rf"^  {MODULES} modules, [\d,]+ lines: code \d+ %", text, re.MULTILINE)
    for table in ("Largest modules", "Longest functions", "Deepest nesting", "Most imported"):
        assert table in text
    assert re.search(r"^  rate +[\d,]+ modules/s", text, re.MULTILINE)
    assert f"broker    sqlite:///{environment['TMPDIR']}/umbel-demo-" in text
    assert "\x1b" not in text
    # Then two processes did it all
    shares = re.findall(r"^  (\d+) +(\d+) +[\d.]+ s +\d+ %$", text, re.MULTILINE)
    assert len(shares) == 2
    assert sum(int(tasks) for _, tasks in shares) == MODULES


def test_on_a_terminal_a_bar_shows_how_far_it_is(environment: dict[str, str]) -> None:
    # Given a terminal
    here, there = pty.openpty()
    # When
    process = subprocess.Popen(
        demo("--modules", "5"),
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        stdin=there,
        stdout=there,
        stderr=there,
    )
    os.close(there)
    text = b"".join(chunks(here)).decode()
    # Then
    assert process.wait(TIMEOUT) == 0
    assert "━" in text
    assert "analysed" not in text
    assert "Largest modules" in text


def chunks(fd: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(fd, 4096):
            yield chunk
    except OSError:  # how Linux says that the other end is closed
        return
    finally:
        os.close(fd)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(
    environment: dict[str, str], signum: signal.Signals
) -> None:
    # Given a demo in the middle of its work
    with subprocess.Popen(
        demo(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "analysed" in process.stdout.readline()
        # When
        process.send_signal(signum)
        # Then
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert errors.strip() == "umbel: stopped"


def test_a_worker_that_dies_is_told(environment: dict[str, str]) -> None:
    # Given
    with subprocess.Popen(
        demo(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "analysed" in process.stdout.readline()
        # When its worker is ended by somebody else
        os.kill(worker_of(process.pid), signal.SIGQUIT)
        # Then
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert errors.startswith("umbel: the worker ended too early")


def worker_of(pid: int) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
    raise AssertionError("it has no child")
