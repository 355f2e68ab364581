"""Options that every command takes, before or after its name, and the application they name."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from umbel.app import Umbel
from umbel.cli.find_app import find_app

F = TypeVar("F", bound=Callable[..., Any])

_KEPT = "umbel.cli."


@dataclass(frozen=True, slots=True)
class Given:
    """What the shared options say; None = nothing."""

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    workdir: str | None = None
    #: False = never; None = on a terminal.
    color: bool | None = None
    quiet: bool = False


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    # The meta is the same for the group and its command: whoever comes last, the command, wins.
    if value is not None and parameter.name:
        ctx.meta[_KEPT + parameter.name] = value


def _shared(*names: str, **options: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_keep, default=None, **options)


_APP_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    _shared("-A", "--app", metavar="MODULE", help="The application: module or module:attribute."),
    _shared("-b", "--broker", metavar="URL", help="Where messages wait."),
    _shared("--result-backend", metavar="URL", help="Where results are kept."),
    _shared("--workdir", metavar="FOLDER", help="Go to this folder first."),
)
#: Not for commands that have one of this name.
_TRACEBACK: Callable[[Any], Any] = _shared(
    "--traceback", "traceback", flag_value=True, type=bool, help="Show where an error comes from."
)
_OUTPUT_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    _shared("-C", "--no-color", "color", flag_value=False, type=bool, help="No colours."),
    _shared("-q", "--quiet", "quiet", flag_value=True, type=bool, help="Say less."),
)


def shared_options(function: F) -> F:
    """Add them to a command."""
    function = output_options(function)
    for option in reversed(_APP_OPTIONS):
        function = option(function)
    return function


def output_options(function: F) -> F:
    """Add those that say how a command talks."""
    if "--traceback" not in _names(function):
        function = _TRACEBACK(function)
    for option in reversed(_OUTPUT_OPTIONS):
        function = option(function)
    return function


def _names(function: Any) -> set[str]:
    options: list[click.Parameter] = getattr(function, "__click_params__", [])
    return {name for option in options for name in option.opts}


def given(ctx: click.Context) -> Given:
    """Return what the shared options of this invocation say."""
    kept: dict[str, Any] = {
        name: ctx.meta[_KEPT + name]
        for name in Given.__dataclass_fields__
        if _KEPT + name in ctx.meta
    }
    if os.environ.get("NO_COLOR"):
        kept.setdefault("color", False)
    return Given(**kept)


def open_app(given: Given, *, required: bool = False) -> Umbel:
    """Return the application; without ``-A`` one that knows no tasks, unless it is required."""
    if given.workdir:
        _change_folder(given.workdir)
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    name = given.app or os.environ.get("UMBEL_APP")
    if name:
        app = find_app(name)
    elif required:
        raise click.UsageError(
            f"which application? Name its module (-A {_likely_module(folder)}) or set UMBEL_APP"
        )
    else:
        app = Umbel()
    _overrule(app, given)
    return app


def _likely_module(folder: str) -> str:
    for path in sorted(Path(folder).glob("*.py")):
        with contextlib.suppress(OSError):
            if "Umbel(" in path.read_text(encoding="utf-8", errors="replace"):
                return path.stem
    return "tasks"


def _change_folder(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise click.UsageError(f"--workdir {folder}: {error.strerror}") from error


def _overrule(app: Umbel, given: Given) -> None:
    if given.broker is not None:
        values = {"broker_url": given.broker, "broker_read_url": None, "broker_write_url": None}
        app.conf.set_layer("command line", values, source="--broker")
    if given.result_backend is not None:
        found = {"result_backend": given.result_backend}
        app.conf.set_layer("command line", found, source="--result-backend")
