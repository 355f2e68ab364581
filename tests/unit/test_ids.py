from __future__ import annotations

import os
import socket
import uuid

import pytest

from umbel import ids
from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id, new_ids, node_name, origin


def test_ids_are_version_7_uuids_as_text() -> None:
    for task_id in [*new_ids(200), *(new_id() for _ in range(200))]:
        parsed = uuid.UUID(task_id)
        assert str(parsed) == task_id
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert abs((parsed.int >> 80) / 1000 - SYSTEM_CLOCK.now()) < 10


def test_ids_do_not_repeat() -> None:
    assert len({*new_ids(10_000), *(new_id() for _ in range(10_000))}) == 20_000
    assert new_ids(0) == []


def test_all_variants_occur() -> None:
    assert {new_id()[19] for _ in range(500)} == set("89ab")
    assert {each[19] for each in new_ids(500)} == set("89ab")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("umbel@%h", "umbel@box.example.org"),
        ("w1@%n", "w1@box"),
        ("w1@%d", "w1@example.org"),
        ("w1", "w1@box.example.org"),
        ("50%%@%n", "50%@box"),
    ],
)
def test_node_names_are_expanded(monkeypatch: pytest.MonkeyPatch, pattern: str, name: str) -> None:
    monkeypatch.setattr(ids, "host_name", lambda: "box.example.org")
    assert node_name(pattern) == name


def test_a_percent_sign_may_stand_before_a_letter_of_a_pattern(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ids, "host_name", lambda: "box")
    assert node_name("a%%h@%n") == "a%h@box"


def test_origin_names_process_and_host() -> None:
    assert origin() == f"gen{os.getpid()}@{socket.gethostname()}"
