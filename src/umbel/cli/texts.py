"""Tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()
) -> str:
    """Return columns, those of numbers to the right, styled for ``click.echo``."""
    columns = [
        _column(column, right=column[0] in numbers) for column in zip(heads, *rows, strict=True)
    ]
    first, *others = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([click.style(first, bold=True), *others])


def _column(cells: Sequence[str], *, right: bool) -> list[str]:
    width = max(map(len, cells))
    return [each.rjust(width) if right else each.ljust(width) for each in cells]
