"""``umbel shell``: an interpreter with the application and its tasks."""

from __future__ import annotations

import code
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from umbel import canvas
from umbel.app import Umbel
from umbel.cli.given import given, shared_options
from umbel.cli.running import load_app
from umbel.version import VERSION


@click.command("shell")
@shared_options
@click.option("-I", "--ipython", "kind", flag_value="ipython", help="IPython, which must be there.")
@click.option("-P", "--python", "kind", flag_value="python", help="The plain interpreter.")
@click.option("-T", "--without-tasks", is_flag=True, help="Do not import the tasks' names.")
@click.pass_context
def command(ctx: click.Context, /, *, kind: str | None, without_tasks: bool) -> None:
    """Open an interpreter in which `app`, its tasks and the canvas are imported.

    It is IPython where that is installed, otherwise Python's own.
    """
    with load_app(given(ctx)) as app:
        names = namespace(app, with_tasks=not without_tasks)
        has_ipython = find_spec("IPython") is not None
        if kind == "ipython" and not has_ipython:
            raise click.UsageError("IPython is not installed: pip install ipython")
        banner = f"umbel {VERSION}: {', '.join(sorted(names))}"
        if has_ipython and kind != "python":
            import_module("IPython").start_ipython(argv=["--no-banner"], user_ns=dict(names))
        else:
            code.interact(banner, local=dict(names), exitmsg="")


def namespace(app: Umbel, *, with_tasks: bool) -> Mapping[str, Any]:
    """Return what the interpreter has imported; tasks by the last part of their names."""
    names: dict[str, Any] = {}
    if with_tasks:
        names.update((name.rpartition(".")[2], task) for name, task in app.tasks.items())
    names.update((name, getattr(canvas, name)) for name in canvas.__all__)
    names.update(app=app, celery=app)
    return {name: value for name, value in names.items() if name.isidentifier()}
