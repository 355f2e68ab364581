"""The command line: its table, options before and after a command, and how errors read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from umbel.cli import main
from umbel.cli.given import Given, given, open_app, output_options, shared_options
from umbel.context import current_app_or_none, set_current_app
from umbel.exceptions import StorageError


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what commands change in their process, which normally ends with them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("UMBEL_TRACEBACK", raising=False)
    monkeypatch.delenv("UMBEL_APP", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    app = current_app_or_none()
    yield
    set_current_app(app)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_table_names_each_command(name: str) -> None:
    command = main.umbel_command.get_command(click.Context(main.umbel_command), name)
    assert isinstance(command, click.Command)
    assert (command.name, command.short_help) == (name, main.COMMANDS[name])


def test_help_imports_no_command() -> None:
    script = "import sys, umbel.cli.main as m; print(m.run(['--help'])); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    listed, _, loaded = done.stdout.partition("\n0\n")
    for name in main.COMMANDS:
        assert f"\n  {name} " in listed
    unwanted = {
        "umbel.worker",
        "rich",
        "asyncio",
        "sqlite3",
        *(f"umbel.cli.{name}" for name in main.COMMANDS),
    }
    assert unwanted.intersection(loaded.split()) == set()


def test_the_worker_needs_no_rich() -> None:
    script = "import sys, umbel.cli.worker; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert {"rich", "sqlite3"}.intersection(done.stdout.split()) == set()


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 0
    assert capsys.readouterr().out.startswith("Usage: umbel")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["wroker"], "there is no command 'wroker'; did you mean 'worker'? (see umbel --help)"),
        (["call"], "missing argument 'NAME' (see umbel call --help)"),
        (["call", "x", "-a", "{}"], "expected something like '[1, 2]', got '{}'"),
        (["call", "x", "-k", "{"], "expected JSON, got '{'"),
        (["call", "x", "--eta", "soon"], "expected a time like 2030-01-31T12:00, got 'soon'"),
        (["call", "x", "--expires", "soon"], "expected a time like"),
        (["worker"], "which application? Name its module (-A tasks)"),
        (["worker", "-A", "nope"], "there is no module 'nope'"),
        (["worker", "-P", "gevent"], "there is no pool 'gevent': async def tasks run"),
        (["worker", "-P", "fork"], "expected prefork, threads, solo, got 'fork'"),
        (["worker", "-l", "loud"], "got 'loud'"),
        (["worker", "-c", "0"], "0 is not in the range"),
        (["call", "x", "--workdir", "/not/there"], "--workdir /not/there: No such file"),
        (["purge", "-X", "celery"], "no queue is left: check -Q and -X"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("umbel: ")
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StorageError("the disk is\nfull"), 1, "umbel: the disk is full\n"),
        (KeyError("key"), 1, "umbel: KeyError: 'key'\n"),
        (KeyboardInterrupt(), 130, "umbel: stopped\n"),
        (click.ClickException("no"), 1, "umbel: no\n"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--traceback"]])
def test_what_fails_is_one_line_and_shows_its_origin_only_if_asked(
    error: BaseException,
    code: int,
    line: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command("fail")
    @output_options
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "COMMANDS", {**main.COMMANDS, "fail": "Fail."})
    monkeypatch.setitem(sys.modules, "umbel.cli.fail", _module(fail))
    assert main.run(["fail", *options]) == code
    printed = capsys.readouterr().err
    assert printed.strip("\n").endswith(line.strip("\n"))
    assert ("Traceback" in printed) == (bool(options) and code != 130)


def _module(command: click.Command) -> object:
    return type("Module", (), {"command": command})


def test_the_variable_asks_for_tracebacks_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_TRACEBACK", "1")
    assert main.run(["wroker"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show"], Given()),
        (["-A", "one", "show"], Given(app="one")),
        (["show", "-A", "one"], Given(app="one")),
        (["-A", "one", "-b", "x://", "show", "--app", "two"], Given(app="two", broker="x://")),
        (["--result-backend", "y://", "show", "-q"], Given(result_backend="y://", quiet=True)),
        (["-C", "show", "--workdir", "w"], Given(color=False, workdir="w")),
    ],
)
def test_shared_options_stand_before_or_after_the_command(
    arguments: list[str], expected: Given
) -> None:
    shown: list[Given] = []

    @click.group
    @shared_options
    def group() -> None:
        pass

    @group.command
    @shared_options
    @click.pass_context
    def show(ctx: click.Context) -> None:
        shown.append(given(ctx))

    group.main(arguments, standalone_mode=False)
    assert shown == [expected]


def test_the_command_line_overrules_program_and_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "overruled.py").write_text(
        "from umbel import Umbel\napp = Umbel(broker='memory://one', backend='memory://one')\n"
    )
    monkeypatch.setenv("UMBEL_BROKER_URL", "memory://two")
    app = open_app(Given(app="overruled", broker="memory://three", result_backend="memory://four"))
    assert app.conf.broker_url == "memory://three"
    assert app.conf.result_backend == "memory://four"
    assert app.conf.source_of("broker_url") == "--broker"
    del sys.modules["overruled"]


def test_the_variable_names_the_application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "named.py").write_text("from umbel import Umbel\napp = Umbel('by variable')\n")
    monkeypatch.setenv("UMBEL_APP", "named")
    assert open_app(Given(), required=True).main == "by variable"
    del sys.modules["named"]


def test_the_folder_of_an_application_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "within.py").write_text("from umbel import Umbel\napp = Umbel('in')\n")
    assert open_app(Given(app="within", workdir="inner")).main == "in"
    assert Path.cwd() == tmp_path / "inner"
    del sys.modules["within"]


def test_without_a_name_the_module_that_has_one_is_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.py").write_text("from umbel import Umbel\napp = Umbel('shop')\n")
    assert main.run(["worker"]) == 2
    assert "(-A shop)" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_failure() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    command = [sys.executable, "-m", "umbel", "--help"]
    done = subprocess.run(command, stdout=write_fd, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_fd)
    assert "Traceback" not in done.stderr
