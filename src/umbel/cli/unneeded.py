"""Celery's options of mechanisms that umbel does not have: accepted, and explained when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_KEY = "umbel.cli.unneeded"

#: Names of an option, whether it has a value, and why it does nothing.
_OPTIONS: tuple[tuple[tuple[str, ...], bool, str], ...] = (
    (("--prefetch-multiplier",), True, "how much a process holds is measured in time"),
    (("-O", "--optimization"), True, "no task waits behind a slow one while a process is idle"),
    (("--without-gossip",), False, "workers do not gossip"),
    (("--without-mingle",), False, "workers that start wait for no others"),
    (("--without-heartbeat",), False, "a worker's record in the broker is its heartbeat"),
    (("--heartbeat-interval",), True, "a worker's record in the broker is its heartbeat"),
    (("-S", "--statedb"), True, "revocations are kept by the broker and survive all workers"),
    (("-E", "--task-events"), False, "not yet: no events are sent"),
)


def unneeded_options(function: F) -> F:
    """Add them to the worker's command."""
    for names, has_value, why in reversed(_OPTIONS):
        more: dict[str, Any] = {} if has_value else {"is_flag": True}
        option = click.option(
            *names,
            expose_value=False,
            callback=_explain(names[-1], why),
            help=f"Not needed: {why}.",
            hidden=True,
            **more,
        )
        function = option(function)
    return function


def _explain(name: str, why: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def explain(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            ctx.meta.setdefault(_KEY, []).append(f"{name} has no effect: {why}")

    return explain


def explanations(ctx: click.Context) -> list[str]:
    """Return what is to be said about the options that were given."""
    found: list[str] = ctx.meta.get(_KEY, [])
    return found
