from __future__ import annotations

import json
from typing import Any

import pytest

from umbel.message import Message
from umbel.wire.control import (
    EXCHANGE,
    Command,
    command_message,
    read_command,
    read_reply,
    reply_exchange,
    reply_message,
    revoke_answer,
    revoke_arguments,
    revoked_ids,
)


def message(body: Any) -> Message:
    return Message("", json.dumps(body).encode(), {}, "", EXCHANGE)


def test_a_command_is_read_as_it_was_written() -> None:
    command = Command(
        "ping", {"a": 1}, ("w@h",), ticket="t", reply_to=(reply_exchange(EXCHANGE), "me"), ours=True
    )
    assert read_command(command_message(command)) == command


def test_a_command_has_the_members_that_celerys_workers_expect() -> None:
    sent = command_message(Command("ping"), expires_at=5.5)
    assert sent.exchange == EXCHANGE
    assert json.loads(sent.body) == {
        "method": "ping",
        "arguments": {},
        "destination": None,
        "pattern": None,
        "matcher": None,
    }
    assert sent.headers["expires"] == 5
    asked = json.loads(command_message(Command("ping", ticket="t", reply_to=("x", "k"))).body)
    assert (asked["ticket"], asked["reply_to"]) == ("t", {"exchange": "x", "routing_key": "k"})


def test_a_command_of_celerys_needs_little() -> None:
    assert read_command(message({"method": "ping"})) == Command("ping")
    sparse = {"method": "ping", "destination": None, "pattern": None, "arguments": None}
    assert read_command(message(sparse)) == Command("ping")


@pytest.mark.parametrize(
    "body",
    [
        *([], 7, None, "ping", {}, {"method": 3}, {"method": "ping", "arguments": [1]}),
        *({"method": "ping", "reply_to": "x"}, {"method": "ping", "destination": {"a": 1}}),
    ],
)
def test_what_is_no_command_is_none(body: Any) -> None:
    assert read_command(message(body)) is None


def test_what_is_no_json_is_no_command() -> None:
    assert read_command(Message("", b"{", {}, "")) is None
    assert read_command(Message("", b"{}", {}, "", content_type="application/x-pickle")) is None


@pytest.mark.parametrize(
    ("command", "concerned"),
    [
        (Command("ping"), True),
        (Command("ping", destination=("umbel@a",)), True),
        (Command("ping", destination=("umbel@b", "umbel")), False),
        (Command("ping", destination=("umbel@b",), pattern="*", matcher="glob"), False),
        (Command("ping", pattern="umbel@*", matcher="glob"), True),
        (Command("ping", pattern="celery@*", matcher="glob"), False),
        (Command("ping", pattern="umb", matcher="pcre"), True),
        (Command("ping", pattern="bel", matcher="pcre"), False),
        (Command("ping", pattern="(", matcher="pcre"), False),
        (Command("ping", pattern="umbel@a", matcher="soundex"), False),
        (Command("ping", pattern="celery@*"), True),
    ],
)
def test_a_node_knows_whether_it_is_meant(command: Command, concerned: bool) -> None:  # noqa: FBT001 -- a parameter
    assert command.concerns("umbel@a") is concerned


def test_an_answer_is_known_by_its_ticket() -> None:
    command = Command("ping", ticket="t", reply_to=("x", "k"))
    answer = reply_message(command, "umbel@a", {"ok": "pong"})
    assert (answer.exchange, answer.routing_key) == ("x", "k")
    assert read_reply(answer, "t") == {"umbel@a": {"ok": "pong"}}
    assert read_reply(answer, "other") == {}


def test_revoke_names_one_or_many() -> None:
    assert revoked_ids({"task_id": "a"}) == ["a"]
    assert revoked_ids(revoke_arguments(["a", "b"], "")) == ["a", "b"]
    assert revoked_ids({"task_id": ["a", 7, None]}) == ["a"]
    assert revoked_ids({"task_id": {"a": 1}}) == revoked_ids({}) == []


def test_revoke_is_answered_in_celerys_words() -> None:
    assert revoke_answer(["a"], terminate=False) == {"ok": "tasks {'a'} flagged as revoked"}
    assert revoke_answer(["a", "b"], terminate=True) == {"ok": "terminate: a, b"}
    assert revoke_answer([], terminate=True) == {"ok": "terminate: tasks unknown"}
