"""What the members of a header leave, and what follows when the last one has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from umbel.bound import BoundTask
from umbel.canvas.advance import Policy, advance, after_join
from umbel.canvas.plan import Call, Gate, join_of
from umbel.exceptions import ChordError
from umbel.message import Delivery, Effects, Message, Outcome
from umbel.servers.seams import Joined
from umbel.states import FAILURE, IGNORED, REVOKED, SUCCESS
from umbel.wire.task import Request


def nothing() -> None: ...


BOUND = BoundTask("t", None, nothing)
BODY: dict[str, Any] = {
    "task": "body",
    "args": [],
    "kwargs": {},
    "options": {"task_id": "body-id"},
    "subtask_type": None,
    "immutable": False,
}


def message_for(planned: Call, _: Request) -> Message:
    body = json.dumps([planned.task, planned.args, planned.options.get("chain")]).encode()
    return Message(planned.options.get("task_id", ""), body, {}, "q")


def advanced(outcome: Outcome, **about: Any) -> Effects:
    request = Request(**{"id": "member", "task": "t", "chord": BODY, "group": "join", **about})
    delivery = Delivery(Message("member", b"", {}, "q"), "q", 1)
    return advance(delivery, request, outcome, BOUND, Policy(message_for))


def after(*parts: Any, body: Any = BODY, shape: Any = None) -> Effects:
    context = json.dumps({"body": body, "root_id": "root", "parent_id": "last"}).encode()
    joined = Joined(
        context,
        [each if isinstance(each, bytes) else json.dumps(each).encode() for each in parts],
        None if shape is None else json.dumps({"result": shape}).encode(),
    )
    policy = Policy(message_for)
    return after_join("join", joined, BOUND, policy, here=lambda *_: [], done_at=1.0)


def sent(effects: Effects) -> list[Any]:
    return [json.loads(each.body) for each in effects.publish]


def failures(effects: Effects) -> dict[str, Mapping[str, Any]]:
    return {each.task_id: json.loads(each.meta)["result"] for each in effects.results}


@pytest.mark.parametrize(
    ("outcome", "state", "value"),
    [
        (Outcome(SUCCESS, 5), "SUCCESS", 5),
        (Outcome(FAILURE, error=ValueError("no")), "FAILURE", "ValueError"),
        (Outcome(REVOKED, error=ValueError("off")), "REVOKED", "ValueError"),
        (Outcome(IGNORED, error=ValueError("?")), "FAILURE", "ValueError"),
    ],
)
def test_every_end_is_an_arrival(outcome: Outcome, state: str, value: Any) -> None:
    (arrival,) = advanced(outcome, group_index=3).arrivals
    part = json.loads(arrival.part)
    assert (arrival.join, arrival.member, arrival.index) == ("join", "member:3", 3)
    found = part[3] if state == "SUCCESS" else part[3]["exc_type"]
    assert (part[:3], found) == ([1, "member", state], value)
    about = json.loads(arrival.context)
    assert (about["body"], about["parent_id"]) == (BODY, "member")


def test_progress_and_retries_are_no_arrivals() -> None:
    assert advanced(Outcome("HALF", 5)).arrivals == ()
    assert advanced(Outcome("RETRY"), delivery_info={"routing_key": "q"}, origin="o").arrivals == ()


def test_who_will_never_run_arrives_too() -> None:
    last = {**BODY, "options": {"task_id": "last", "group_id": "join", "chord": BODY}}
    effects = advanced(Outcome(FAILURE, error=ValueError("no")), chord=None, chain=[last])
    (arrival,) = effects.arrivals
    assert (arrival.join, arrival.member) == ("join", "last:+inf")
    assert failures(effects).keys() == {"member", "last"}
    ignored = advanced(Outcome(IGNORED, error=ValueError("no")), chord=None, chain=[last])
    assert (len(ignored.arrivals), ignored.results) == (1, ())


def test_the_body_gets_the_values_in_their_order() -> None:
    effects = after([1, "a", "SUCCESS", 1], [1, "b", "SUCCESS", None])
    assert sent(effects) == [["body", [[1, None]], None]]
    assert (effects.delivery, effects.closes, effects.publish[0].id) == (None, "join", "body-id")


def test_values_nest_as_a_celery_client_saved_it() -> None:
    shape = [["join", None], [[["a", None], None], [["g", None], [[["b", None], None]]]]]
    effects = after([1, "b", "SUCCESS", 2], [1, "a", "SUCCESS", 1], shape=shape)
    assert sent(effects) == [["body", [[1, [2]]], None]]


def test_a_failed_member_fails_all_that_waited() -> None:
    link = {**BODY, "options": {"task_id": "link"}}
    end = {
        **BODY,
        "options": {"task_id": "end", "group_id": "outer", "group_index": 1, "chord": BODY},
    }
    chain = {**BODY, "kwargs": {"tasks": [link, end]}, "subtask_type": "chain"}
    error = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    effects = after([1, "a", "SUCCESS", 1], [1, "b", "FAILURE", error], body=chain)
    assert sent(effects) == []
    found = failures(effects)
    assert found.keys() == {"link", "end"}
    assert found["end"]["exc_type"] == "ChordError"
    assert found["end"]["exc_message"] == ["Dependency b raised ValueError('no')"]
    assert [(each.join, each.index) for each in effects.arrivals] == [("outer", 1)]


def test_many_failures_are_named_up_to_a_number() -> None:
    error = {"exc_type": "ValueError", "exc_message": [], "exc_module": "builtins"}
    effects = after(*([1, str(n), "FAILURE", error] for n in range(15)))
    (text,) = failures(effects)["body-id"]["exc_message"]
    assert text.startswith("Dependency 0 raised ValueError(); Dependency 1 raised")
    assert text.endswith("; 5 more failed")


@pytest.mark.parametrize("part", [b"{", b"[]", b"5", b'[1, "a", "FAILURE", 5]', b"[1, [], {}, 0]"])
def test_a_part_that_is_none_is_a_failure(part: bytes) -> None:
    effects = after([1, "b", "SUCCESS", 1], part)
    assert sent(effects) == []
    assert failures(effects)["body-id"]["exc_type"] == "ChordError"


@pytest.mark.parametrize(
    "body",
    [
        None,
        5,
        {},
        {"task": "t"},
        {**BODY, "options": None},
        {**BODY, "subtask_type": "chain"},
        {**BODY, "subtask_type": "chain", "kwargs": {"tasks": [5]}},
        {**BODY, "subtask_type": "group", "kwargs": {"tasks": 5}},
        {**BODY, "subtask_type": "chord", "kwargs": {"header": [], "body": None}},
        {**BODY, "subtask_type": ["?"]},
        {**BODY, "options": {"task_id": 5, "link_error": 5}, "args": 5},
    ],
)
def test_a_body_that_is_none_closes_its_join(body: Any) -> None:
    assert after([1, "a", "SUCCESS", 1], body=body).closes == "join"
    error = {"exc_type": "ValueError", "exc_message": [], "exc_module": "builtins"}
    assert after([1, "a", "FAILURE", error], body=body).closes == "join"
    advanced(Outcome(FAILURE, error=ValueError("no")), chain=[body], chord=None)


def test_a_body_that_json_cannot_hold_fails_its_members() -> None:
    odd = {**BODY, "args": [object()]}
    effects = advanced(Outcome(FAILURE, error=ValueError("no")), chord=odd)
    (arrival,) = effects.arrivals
    assert json.loads(arrival.context)["body"]["options"] == {"task_id": "body-id"}


def test_a_join_knows_who_caused_it() -> None:
    request = Request(id="parent", task="t", root_id="root", reply_to="me")
    join = join_of(Gate("join", 2, BODY), request, expires_in=5.0)
    assert (join.id, join.size, join.expires_in) == ("join", 2, 5.0)
    assert json.loads(join.context).items() >= {"body": BODY, "root_id": "root"}.items()
    assert ChordError("x").args == ("x",)
