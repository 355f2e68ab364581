"""The question before something is deleted."""

from __future__ import annotations

import sys

import click


def agree(question: str) -> None:
    """Return if the user says yes; raise if not, or if nobody is there to be asked."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError("nobody is there to be asked: -f deletes without asking") from None
    if not agreed:
        raise click.ClickException("nothing was deleted")
