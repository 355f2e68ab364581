"""The suites as a whole: nothing in them may be hidden or forgotten."""

from __future__ import annotations

from collections import Counter

from umbel.testing import contract
from umbel.testing.contract import ServerContract
from umbel.testing.contract.capabilities import TABLE
from umbel.testing.contract.stage import Suite

SUITES = [each for each in Suite.__subclasses__() if each is not ServerContract]


def test_no_test_hides_another_of_the_same_name() -> None:
    names = Counter(name for suite in SUITES for name in vars(suite) if name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_contract_of_a_server_has_every_suite() -> None:
    assert set(ServerContract.__bases__) == set(SUITES)


def test_every_suite_is_offered() -> None:
    assert {suite.__name__ for suite in SUITES} <= set(contract.__all__)


def test_the_table_has_the_columns_of_the_design() -> None:
    assert {"memory", "sqlite", "redis", "rabbitmq", "postgres"} <= set(TABLE)


def test_only_rabbitmq_commits_in_order() -> None:
    ordered = {name for name, row in TABLE.items() if row.commit == "ordered"}
    assert ordered == {"rabbitmq", "rabbitmq+store"}
