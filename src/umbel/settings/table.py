"""Every setting: the sections, each a class whose attributes are its rows.

A new setting is a row in its section; whoever needs it reads ``app.conf.<name>``. Names, meanings
and old names are Celery's, its default is in the row, and a test compares all of them with Celery.
``docs/configuration.md`` is made from these rows.

A row is a ``Setting``; an ``Unused`` where umbel has no such mechanism and needs none; a
``Missing`` where who sets it will miss something. Both are accepted without effect, and their notes
say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from umbel.settings.absent import Mechanisms, Stores
from umbel.settings.general import Broker, DatabaseResults, General, RedisResults, Results, Security
from umbel.settings.kinds import Setting
from umbel.settings.tasks import Beat, Control, Logging, Routing, Running, Sending, Worker


class Settings(
    General,
    Broker,
    Results,
    RedisResults,
    Sending,
    Routing,
    Running,
    Worker,
    Logging,
    Control,
    Beat,
    DatabaseResults,
    Security,
    Mechanisms,
    Stores,
):
    """All of them, in the order of the documentation."""

    __slots__ = ()


#: The sections.
SECTIONS = Settings.__bases__


def rows_of(section: type) -> list[Setting[Any]]:
    """Return the rows of one section."""
    named = vars(section).items()
    return [row for name, row in named if isinstance(row, Setting) and name == row.name]


TABLE: Mapping[str, Setting[Any]] = MappingProxyType(
    {row.name: row for section in SECTIONS for row in rows_of(section)}
)
#: Every name a setting is known by -> its name.
NAMES: Mapping[str, str] = MappingProxyType(
    {known: row.name for row in TABLE.values() for known in row.known}
)
