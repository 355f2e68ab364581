"""Chords, and what is common to all workflows, as values; and what sending them sends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit import sent
from umbel import AsyncResult, GroupResult, Task, Umbel, chain, chord, group
from umbel.canvas import StampingVisitor, outbox

AddTask = Task[..., int]


def test_a_chord_sends_its_header_which_carries_the_body(add: AddTask, app: Umbel) -> None:
    body = add.s(5).set(link_error=[add.si(6)])
    result = chord([add.s(1), add.s(2)], body).apply_async((10,), task_id="body", queue="q")
    first, second = sent.requests(app, "q")
    assert (first.args, second.args) == ([10, 1], [10, 2])
    assert (first.group_index, second.group_index) == (0, 1)
    options = first.chord["options"]
    assert first.chord == second.chord
    assert (options["task_id"], options["queue"], options["group_id"]) == ("body", "q", first.group)
    assert result.id == "body"
    assert isinstance(result.parent, GroupResult)
    assert [each.id for each in result.parent] == [first.id, second.id]
    assert body == add.s(5).set(link_error=[add.si(6)])  # sending changed nothing


def test_a_chord_may_get_its_body_later(add: AddTask, app: Umbel) -> None:
    header: chord[Any] = chord([add.s(1)])
    with pytest.raises(ValueError, match="needs a body"):
        header.apply_async()
    assert sent.messages(app) == []
    header(add.s(2), countdown=0)
    assert sent.request(app).chord["args"] == [2]


def test_the_options_of_a_chord_are_its_headers_and_bodys(add: AddTask, app: Umbel) -> None:
    made = chord([add.s(1), add.s(2).set(priority=5)], add.s(), priority=3)
    made.apply_async(countdown=0.0, link=add.s(6))
    assert sorted(each.priority for each in sent.messages(app)) == [3, 5]
    made.apply_async(countdown=0.0, link=add.s(6))
    first, _ = sent.requests(app)
    assert first.callbacks is None
    options = first.chord["options"]
    assert (options["priority"], "countdown" in options) == (3, False)
    assert options["link"]["args"] == [6]
    app.conf.task_allow_error_cb_on_chord_header = True
    made = chord([add.s(1)], add.s())
    made.link(add.s(7))
    made.link_error(add.s(8))
    assert made.body.options == {"link": [add.s(7)], "link_error": [add.s(8)]}
    assert made.tasks[0].options == {"link_error": [add.s(8)]}


def test_a_header_from_a_generator_is_read_as_it_is_sent(
    add: AddTask, app: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SLICE", 10)
    result = chord((add.s(n) for n in range(25)), add.s()).apply_async()
    found = sent.requests(app)
    assert [each.group_index for each in found] == list(range(25))
    assert result.parent is not None
    assert len(list(result.parent.leaves())) == 25


def test_options_of_workflows_in_others_are_those_of_their_parts(add: AddTask, app: Umbel) -> None:
    inner = chain(add.s(1), add.s(2)).on_error(add.si(9)).set(queue="inner")
    group([inner, group(add.s(3), add.s(4)).set(queue="nested")]).apply_async()
    (first,) = sent.requests(app, "inner")
    assert [each["args"] for each in first.errbacks or ()] == [[9]]
    assert (first.chain or [])[0]["options"]["queue"] == "inner"
    assert len(sent.requests(app, "nested")) == 2
    joined = chain(add.s(1), add.s(2)).on_error(add.si(9)) | add.s(3)
    other: Any = add.s(0) | chain(add.s(1), add.s(2)).on_error(add.si(9))
    assert [each.options for each in other.tasks] == [{}, *[{"link_error": [add.si(9)]}] * 2]
    assert joined.options == {"link_error": [add.si(9)]}


def test_ids_of_a_frozen_workflow_are_those_it_is_sent_with(add: AddTask, app: Umbel) -> None:
    made = chord([add.s(1), add.s(2)], add.s() | add.s())
    frozen = made.freeze()
    sent_result = made.apply_async()
    first, second = sent.requests(app)
    assert isinstance(frozen.parent, AsyncResult)
    header: Any = frozen.parent.parent
    assert [each.id for each in header.results] == [first.id, second.id]
    assert (sent_result.id, first.group) == (frozen.id, header.id)
    assert made.freeze("other").id == frozen.id
    assert group([add.s(1)]).freeze("g").id == "g"
    assert chain(add.s(1), add.s(2)).freeze("c").id == "c"


def test_members_may_be_skewed(add: AddTask) -> None:
    made = group([add.s(n) for n in range(4)]).skew(start=1, stop=3, step=1)
    assert [each.options["countdown"] for each in made.tasks] == [1, 2, 3, 3]
    made.skew(start=1, stop=4, step=2)
    assert [each.options["countdown"] for each in made.tasks] == [1, 3, 3, 3]


def test_stamps_reach_every_task(add: AddTask) -> None:
    made: Any = (add.s(1) | group(add.s(2), add.s(3)) | add.s(4)).stamp(tenant="x")
    tasks = [made.tasks[0], *made.tasks[1].tasks, made.tasks[1].body]
    assert [each.options for each in tasks] == [{"tenant": "x", "stamped_headers": ["tenant"]}] * 4


def test_a_visitor_stamps_each_part(add: AddTask) -> None:
    class Visitor(StampingVisitor):
        def on_signature(self, sig: Any, **_: Any) -> dict[str, Any]:
            return {"own": sig.args[0]}

        def on_chain_start(self, chain: Any, **_: Any) -> dict[str, Any]:
            return {"length": len(chain.tasks), "hidden": 1, "stamped_headers": ["length"]}

        def on_callback(self, callback: Any, **_: Any) -> dict[str, Any]:
            return {"linked": callback.task == "add"}

    linked = add.s(3)
    made = chain(add.s(1).set(link=[linked]), add.s(2)).stamp(Visitor())
    assert made.tasks[1].options == {"own": 2, "length": 2, "stamped_headers": ["length", "own"]}
    assert linked.options["linked"] is True
    assert linked.options["stamped_headers"] == ["length", "linked", "own"]


def test_tasks_over_many_arguments(add: AddTask, app: Umbel) -> None:
    assert add.map([1, 2])["task"] == "celery.map"
    assert add.starmap([(1, 2)]).immutable
    add.chunks([(n, n) for n in range(5)], 2).apply_async(queue="q")
    found = sent.requests(app, "q")
    assert [each.kwargs["it"] for each in found] == [[[0, 0], [1, 1]], [[2, 2], [3, 3]], [[4, 4]]]
    with pytest.raises(ValueError, match="at least 1"):
        add.chunks([], 0)


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack"])
@pytest.mark.filterwarnings("ignore:.*pickle")
def test_workflows_travel_as_plain_dicts(add: AddTask, app: Umbel, serializer: str) -> None:
    (add.s(1) | add.s(2)).apply_async(serializer=serializer)
    (message,) = sent.messages(app)
    assert b"umbel" not in message.body
    assert message.content_type != "application/json"
