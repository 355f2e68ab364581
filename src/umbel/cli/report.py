"""``umbel report``: what runs here, and how it is configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from umbel.app import Umbel
from umbel.cli.given import given, open_app, shared_options
from umbel.cli.texts import table
from umbel.exceptions import UmbelError
from umbel.settings.kinds import Missing, Unused
from umbel.settings.table import TABLE
from umbel.version import software

#: Characters of a value in the table.
_WIDTH = 60


@click.command("report")
@shared_options
@click.option("--all", "everything", is_flag=True, help="Show all settings, not only those set.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, *, everything: bool, as_json: bool) -> None:
    """Show versions, the application, and each setting that was set, with its source.

    Passwords, keys and tokens are masked, so that it can be shown to others.
    """
    with open_app(given(ctx)) as app:
        facts = {**software(), "application": app.main or "(no name)", **_servers(app)}
        settings = _settings(app, everything=everything)
    if as_json:
        click.echo(json.dumps({**facts, "settings": settings}, default=repr))
        return
    width = max(map(len, facts)) + 1
    click.echo("\n".join(f"{name + ':':{width}} {value}" for name, value in facts.items()) + "\n")
    if settings:
        rows = [_row(name, about) for name, about in settings.items()]
        click.echo(table(("setting", "value", "source"), rows), color=given(ctx).color)
    else:
        click.echo("Every setting has its default.")


def _servers(app: Umbel) -> dict[str, str]:
    """Return the URLs of the broker and the result store, or why they cannot be opened."""
    try:
        servers = app.servers()
    except UmbelError as error:
        return {"broker": f"cannot be opened: {error}"}
    store = servers.store.display_url if servers.store else "on the same server"
    return {"broker": servers.broker.display_url, "results": store}


def _settings(app: Umbel, *, everything: bool) -> dict[str, dict[str, Any]]:
    shown = app.conf.table(with_defaults=everything)
    return {
        name: {
            "value": value,
            "default": TABLE[name].default,
            "source": app.conf.source_of(name),
            "effect": _effect(name),
        }
        for name, value in shown.items()
    }


def _effect(name: str) -> str:
    match TABLE[name]:
        case Missing():
            return "missing"
        case Unused():
            return "none"
        case _:
            return "yes"


def _row(name: str, about: dict[str, Any]) -> tuple[str, str, str]:
    value = repr(about["value"])
    if len(value) > _WIDTH:
        value = f"{value[: _WIDTH - 1]}…"
    source = about["source"].replace(f"{Path.cwd()}/", "")
    effect = {"none": "; no effect", "missing": "; not done"}.get(about["effect"], "")
    return name, value, source + effect
