"""Our table of settings beside the installed Celery's: names, old names, defaults, types."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from umbel.settings.kinds import OURS
from umbel.settings.table import NAMES, TABLE

#: Run in a process of its own: other tests are of programs that have not imported Celery.
READ = """
import datetime, json
from celery.app.defaults import _TO_NEW_KEY, NAMESPACES, flatten
plain = lambda value: value.total_seconds() if isinstance(value, datetime.timedelta) else value
rows = {name: [str(row.type), plain(row.default)] for name, row in flatten(NAMESPACES)}
print(json.dumps([rows, _TO_NEW_KEY]))
"""
#: Documented by Celery, but not in its table: read elsewhere, or by its command line.
DOCUMENTED = {
    "cassandra_secure_bundle_path",
    "override_backends",
    "redis_backend_credential_provider",
    "redis_backend_health_check_interval",
    "redis_client_name",
    "result_backend_thread_safe",
    *(
        f"{program}_{name}"
        for program in ("worker", "beat", "events")
        for name in ("logfile", "pidfile", "uid", "gid", "umask", "executable")
    ),
}
#: Celery's table has this name for broker_url too, and None for its default.
ALIAS, IMPLIED = "broker_host", "broker_url"


class Celery(NamedTuple):
    #: Setting -> its type and its default.
    rows: dict[str, tuple[str, Any]]
    #: Old name -> setting.
    old: dict[str, str]


@pytest.fixture(scope="module")
def celery() -> Celery:
    rows, old = json.loads(subprocess.check_output([sys.executable, "-c", READ]))
    assert NAMES[ALIAS] == NAMES[ALIAS.upper()] == IMPLIED
    del rows[ALIAS], old[ALIAS.upper()]
    return Celery(rows, old)


def test_every_setting_of_celery_is_here_and_others_say_so(celery: Celery) -> None:
    ours = {name for name, row in TABLE.items() if row.celery is OURS}
    assert TABLE.keys() - ours == celery.rows.keys() | DOCUMENTED


def test_old_names_mean_the_same(celery: Celery) -> None:
    assert {old: NAMES.get(old) for old in celery.old} == celery.old


def test_celerys_default_is_in_the_row_and_is_taken(celery: Celery) -> None:
    for name in celery.rows.keys() - {IMPLIED}:
        row, default = TABLE[name], celery.rows[name][1]
        expected = None if default is None else row.parse(default, "Celery")
        assert row.celery == expected, name


@pytest.mark.parametrize(
    ("kind", "text", "value"), [("bool", "true", True), ("int", "3", 3), ("float", "2.5", 2.5)]
)
def test_what_celerys_type_takes_is_taken(
    celery: Celery, kind: str, text: str, value: object
) -> None:
    for name in [each for each, (its_kind, _) in celery.rows.items() if its_kind == kind]:
        row = TABLE[name]
        if "one of" not in row.kind.what:
            assert row.parse(value, "Celery") == row.parse_text(text, "a variable"), name
