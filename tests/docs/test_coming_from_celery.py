"""The tables of docs/coming-from-celery.md are true."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from umbel.settings.kinds import OURS, Missing, Unused
from umbel.settings.table import TABLE

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from-celery.md").read_text()
#: Imports names in a process of its own: other tests are of programs without Celery.
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, attribute = name.rpartition(".")
    getattr(importlib.import_module(module), attribute)
"""


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_each_name_is_where_the_page_says() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)`[^|]* \| `([\w.]+)`", section("Where names are"), re.MULTILINE
    )
    assert len(rows) > 30
    for _, name in rows:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
    subprocess.run([sys.executable, "-c", IMPORT, *(name for name, _ in rows)], check=True)


def test_every_default_that_differs_is_on_the_page() -> None:
    different = {
        name
        for name, row in TABLE.items()
        if row.celery is not OURS
        and row.celery != row.default
        and not isinstance(row, Missing | Unused)
    }
    table = "".join(line for line in section("Defaults that differ").splitlines())
    named = set(re.findall(r"`(\w+)`", table)) & TABLE.keys()
    assert different - named == set()


def test_settings_that_are_said_to_have_no_effect_have_none() -> None:
    named = set(re.findall(r"`(\w+)`", section("Settings that are not needed")))
    named -= {"visibility_timeout", "broker_transport_options"}
    assert all(isinstance(TABLE[name], Unused) for name in named)
    assert len(named) > 8
