"""The tables of docs/configuration.md: `python -m tests.docs.settings_page` makes them.

They are made from the settings, and a test says when the page is behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from umbel.settings.kinds import OURS, Missing, Setting, Unused
from umbel.settings.table import SECTIONS, rows_of

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
#: All that follows it is made.
MARK = "<!-- made from src/umbel/settings by python -m tests.docs.settings_page -->\n"


def renewed(page: str) -> str:
    """Return the page with its tables made anew."""
    return page.partition(MARK)[0] + MARK + "".join(_section(each) for each in SECTIONS)


def _section(section: type) -> str:
    title, _, intro = (section.__doc__ or "").partition("\n")
    rows = rows_of(section)
    missing = [row for row in rows if isinstance(row, Missing)]
    unused = [row for row in rows if isinstance(row, Unused)]
    active = [row for row in rows if row not in missing and row not in unused]
    parts = [
        f"## {title.rstrip('.')}",
        " ".join(intro.split()),
        _table(active),
        "Accepted, but not done, of which a worker warns:" if missing else "",
        "\n".join(_reasons(missing)),
        "Accepted, without effect:" if unused else "",
        "\n".join(_reasons(unused)),
    ]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[Setting[Any]]) -> str:
    if not rows:
        return ""
    heads = "| setting | takes | default | Celery's | meaning |\n|---|---|---|---|---|"
    return "\n".join([heads, *map(_row, rows)])


def _row(row: Setting[Any]) -> str:
    celery = "" if row.celery == row.default else f"`{row.celery!r}`"
    if row.celery is OURS:
        celery = "no such setting"
    return f"| `{row.name}` | {row.kind.what} | `{row.default!r}` | {celery} | {row.note} |"


def _reasons(rows: Sequence[Setting[Any]]) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.note, []).append(f"`{row.name}`")
    for note, those in names.items():
        yield f"- {', '.join(those)}: {note[:1].lower()}{note[1:]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
