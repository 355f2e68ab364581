"""The source of entries that the setting ``beat_scheduler`` names."""

from __future__ import annotations

from typing import Any

from umbel.config import import_named
from umbel.exceptions import ImproperlyConfigured
from umbel.scheduling.given import EntrySource

#: Celery's scheduler: what it does is built in.
BUILT_IN = ("celery.beat:PersistentScheduler", "celery.beat.PersistentScheduler", "")
#: Schedulers of Celery's, and where their entries can live instead.
_FOREIGN = {
    "django_celery_beat": "app.schedule.add, or a source that reads its tables",
    "redbeat": "app.schedule.add",
    "celery": "beat_schedule",
}


def source_of(app: Any, name: str) -> EntrySource | None:
    """Make the source of this name, or return None: it is the built-in one."""
    if name in BUILT_IN:
        return None
    package = name.partition(".")[0].partition(":")[0]
    if package in _FOREIGN:
        raise ImproperlyConfigured(
            f"beat_scheduler {name!r} is a scheduler of Celery's, which umbel cannot run: its "
            f"entries can be given by {_FOREIGN[package]} (see the guide to scheduling)"
        )
    made = import_named(name)(app)
    for method in ("entries", "revision"):
        if not callable(getattr(made, method, None)):
            raise ImproperlyConfigured(
                f"beat_scheduler {name!r}: expected an object with entries() and revision(), "
                f"got {made!r:.80}"
            )
    source: EntrySource = made
    return source
