"""Lists of names in options: ``a,b,c``."""

from __future__ import annotations

import click


def names(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Read such a list, for click."""
    return tuple(dict.fromkeys(each.strip() for each in value.split(",") if each.strip()))
