"""Numbers on the command line; errors call them what people do."""

from __future__ import annotations

import click


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"


class Number(click.FloatRange):
    """A number within bounds."""

    name = "number"


#: Of what is shown live.
interval_option = click.option(
    "-i",
    "--interval",
    type=Number(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
