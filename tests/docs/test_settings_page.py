"""docs/configuration.md has every setting as the table in the code has it."""

from __future__ import annotations

from tests.docs.settings_page import MARK, PAGE, renewed
from umbel.settings.table import TABLE


def test_the_page_is_made_of_the_table() -> None:
    page = PAGE.read_text()
    assert page == renewed(page), "run: python -m tests.docs.settings_page"
    tables = page.partition(MARK)[2]
    assert [name for name in TABLE if f"`{name}`" not in tables] == []
