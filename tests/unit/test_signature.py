"""Signatures, groups and chains as values, and what sending them sends."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.unit import sent
from umbel import (
    GroupResult,
    Signature,
    Task,
    Umbel,
    chain,
    group,
    maybe_signature,
    signals,
    signature,
)
from umbel.canvas import outbox
from umbel.context import current_request
from umbel.exceptions import PublishError, SecurityWarning
from umbel.servers.seams import Transport
from umbel.wire.task import Request

AddTask = Task[..., int]


# --- as a value


def test_it_is_a_dict_of_six_keys(add: AddTask) -> None:
    made = add.s(1, z=2).set(queue="q")
    assert json.loads(json.dumps(made)) == {
        "task": "add",
        "args": [1],
        "kwargs": {"z": 2},
        "options": {"queue": "q"},
        "subtask_type": None,
        "immutable": False,
    }
    assert (made.task, made.args, made.kwargs, made.options) == (
        "add",
        (1,),
        {"z": 2},
        {"queue": "q"},
    )
    assert repr(made) == "add(1, z=2)"
    assert made.type is add


def test_ways_to_make_one(add: AddTask, app: Umbel) -> None:
    expected = add.s(1)
    assert signature("add", (1,)) == expected
    assert signature(add, args=(1,)) == expected
    assert app.signature("add", (1,)) == expected
    assert add.signature((1,)) == add.subtask((1,)) == expected
    assert Signature("add", (1,)) == expected
    assert signature(dict(expected)) == expected
    assert signature(expected) is not expected
    assert maybe_signature(expected) is expected
    assert maybe_signature(3) == 3
    assert add.si(1).immutable
    assert add.signature((1,), {"z": 1}, countdown=3).options == {"countdown": 3}


def test_copies_are_independent(add: AddTask) -> None:
    made = add.s(1).set(link=[add.s(2)])
    for other in (made.clone(), copy.copy(made), copy.deepcopy(made)):
        assert other == made
        assert type(other) is Signature
        other.set(queue="q")
        other.kwargs["z"] = 1
        other.link(add.s(3))
    assert made.options == {"link": [add.s(2)]}
    assert made.kwargs == {}


def test_it_can_be_pickled(add: AddTask) -> None:
    for made in (add.s(1), group([add.s(1)]), chain(add.s(1), add.s(2))):
        again = pickle.loads(pickle.dumps(made))
        assert again == made
        assert type(again) is type(made)


# --- partial application


def test_more_arguments_come_in_front(add: AddTask) -> None:
    made = add.s(2, z=3).set(queue="a").clone((1,), {"z": 4}, queue="b")
    assert (made.args, made.kwargs, made.options) == ((1, 2), {"z": 4}, {"queue": "b"})


def test_an_immutable_one_takes_none(add: AddTask) -> None:
    made = add.si(2).clone((1,), {"z": 4}, queue="b")
    assert (made.args, made.kwargs, made.options) == ((2,), {}, {"queue": "b"})


def test_replacing(add: AddTask) -> None:
    made = add.s(1, z=1).replace(args=(5,), kwargs={}, options={"queue": "q"})
    assert (made.args, made.kwargs, made.options) == ((5,), {}, {"queue": "q"})


def test_links(add: AddTask) -> None:
    made, callback, errback = add.s(1), add.s(2), add.si(3)
    assert made.link(callback) is callback
    assert made.link(add.s(2)) == callback  # an equal one is there already
    assert made.link_error(errback) is errback
    assert made.on_error(add.si(4)) is made
    assert made.options == {"link": [callback], "link_error": [errback, add.si(4)]}


def test_freezing_gives_it_its_id(add: AddTask) -> None:
    made = add.s(1)
    result = made.freeze(group_id="g", group_index=2, root_id="r", parent_id="p")
    assert made.options == {
        "task_id": result.id,
        "group_id": "g",
        "group_index": 2,
        "root_id": "r",
        "parent_id": "p",
    }
    assert made.freeze().id == result.id == made.id
    assert add.s(1).freeze("given").id == "given"


# --- sending


def test_sending_one(add: AddTask, app: Umbel) -> None:
    add.s(2).delay(1, z=3)
    add.s(1).set(queue="q").apply_async((5,), priority=3)
    first = sent.request(app)
    assert (first.args, first.kwargs) == ([1, 2], {"z": 3})
    (second,) = sent.messages(app, "q")
    assert second.priority == 3
    frozen = add.s(1)
    assert frozen.freeze().id == frozen.delay().id == sent.request(app).id


def test_a_task_with_an_apply_async_of_its_own(app: Umbel) -> None:
    class Traced(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            options.setdefault("headers", {})["trace"] = "t"
            return super().apply_async(args, kwargs, **options)

    @app.task(base=Traced)
    def job(x: int) -> None: ...

    job.delay(1)
    job.s(1).delay()
    job.apply_async((1,))
    assert [each.headers for each in sent.requests(app)] == [{"trace": "t"}] * 3


def test_one_whose_task_is_not_here(app: Umbel) -> None:
    signature("else.where", (1,)).delay()
    assert sent.request(app).task == "else.where"


def test_calling_it_runs_it_here(add: AddTask, app: Umbel) -> None:
    assert add.s(1, z=3)(2) == 6
    assert add.s(1).apply((2,)).get() == 3
    assert sent.messages(app) == []


def test_arguments_are_checked(add: AddTask) -> None:
    with pytest.raises(TypeError, match=r"add\(\)"):
        add.s(1, 2, 3).delay()


# --- groups


class Counted:
    """Counts the calls of ``publish``."""

    def __init__(self, inner: Transport) -> None:
        self._publish = inner.publish
        self.counts: list[int] = []

    def publish(self, messages: Any, **options: Any) -> None:
        self.counts.append(len(messages))
        self._publish(messages, **options)


def test_a_group_is_published_in_one_call(
    add: AddTask, app: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = app.servers().broker.transport
    counted = Counted(transport)
    monkeypatch.setattr(transport, "publish", counted.publish)
    result = group(add.s(number, 1) for number in range(100)).apply_async()
    assert counted.counts == [100]
    assert isinstance(result, GroupResult)
    found = sent.requests(app)
    assert [each.id for each in found] == [each.id for each in result.results]
    assert [each.args for each in found] == [[number, 1] for number in range(100)]
    assert {each.group for each in found} == {result.id}
    assert [each.group_index for each in found] == list(range(100))


def test_a_generator_is_read_as_it_is_sent(
    add: AddTask, app: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = app.servers().broker.transport
    counted = Counted(transport)
    monkeypatch.setattr(transport, "publish", counted.publish)
    monkeypatch.setattr(outbox, "SLICE", 10)
    seen: list[int] = []

    def members() -> Iterator[Signature[int]]:
        for number in range(25):
            seen.append(sum(counted.counts))
            yield add.s(number)

    result = group(members()).apply_async()
    assert counted.counts == [10, 10, 5]
    assert seen[9:12] == [0, 10, 10]
    assert len(result.results) == 25


def test_a_group_takes_arguments_and_options_for_all(add: AddTask, app: Umbel) -> None:
    made = group(add.s(1), add.s(2).set(queue="own"), queue="shared")
    made.apply_async((10,), priority=4)
    messages = sent.messages(app, "shared", "own")
    assert [each.priority for each in messages] == [4, 4]
    assert len(made) == 2
    assert made.tasks == [add.s(1), add.s(2).set(queue="own")]


def test_members_are_the_same_messages_whatever_way_they_go(add: AddTask, app: Umbel) -> None:
    options: dict[str, Any] = {"retries": 0}  # says what is the case anyway

    @app.task(name="other", ignore_result=True)
    def other(x: int) -> None: ...

    def members(**options: Any) -> Iterator[Signature[Any]]:
        for each in (add.s(1, 2), add.si(3, z=4), other.s(5), add.s(6)):
            yield each.set(**options)

    running = Request(id="parent", task="t", root_id="root")
    token = current_request.set(running)
    try:
        results = [
            group(members()).apply_async(),
            group(members()).apply_async(**options),
            group(members(**options)).apply_async(),
        ]
    finally:
        current_request.reset(token)
    messages = sent.messages(app)
    ids = [each.id for result in results for each in result]
    assert [each.id for each in messages] == ids
    assert len(ids) == 12
    for ours, theirs in zip(messages[:4] + messages[4:8], messages[8:] * 2, strict=True):
        headers = {**theirs.headers, "id": ours.id, "group": ours.headers["group"]}
        assert ours == replace(theirs, id=ours.id, headers=headers, sent_at=ours.sent_at)
    for result in results:
        assert [each.ignored for each in result] == [False, False, True, False]
    assert {each.headers["group"] for each in messages} == {each.id for each in results}
    assert running.children == results


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "own", "priority": 12},
        {"queue": "own", "routing_key": "other"},
        {"eta": dt.datetime(2001, 2, 3, tzinfo=dt.UTC), "expires": "2099-01-01T00:00:00+00:00"},
        {"link": Signature("add", (1,)), "link_error": [Signature("add", (2,))]},
        {"ignore_result": True, "headers": {"a": 1}, "shadow": "s", "reply_to": "r"},
        {"serializer": "pickle", "compression": "zlib", "time_limit": 3, "queue": None},
        {"root_id": "other root", "stamped_headers": ["s"], "s": 1},
    ],
    ids="-".join,
)
def test_an_option_of_the_group_is_one_of_each_member(
    add: AddTask, app: Umbel, options: dict[str, Any]
) -> None:
    ours = group(add.s(number) for number in range(2)).apply_async(**options)
    theirs = group(add.s(number).set(**options) for number in range(2)).apply_async()
    messages = sent.messages(app, "celery", "own")
    assert len(messages) == 4
    for one, other in zip(messages[:2], messages[2:], strict=True):
        own = {name: one.headers[name] for name in ("id", "group")}
        if "root_id" not in options:
            own["root_id"] = one.id
        properties = other.properties
        if properties and "expiration" in properties:
            properties = {**properties, "expiration": (one.properties or {})["expiration"]}
        assert one == replace(
            other,
            id=one.id,
            headers={**other.headers, **own},
            sent_at=one.sent_at,
            properties=properties,
        )
    assert [each.ignored for each in ours] == [each.ignored for each in theirs]


def test_members_go_one_by_one_where_they_are_not_alike(add: AddTask, app: Umbel) -> None:
    def route(name: str, args: Any, *_: Any, **__: Any) -> str:
        return f"{name}-{args[0]}"

    app.conf.task_routes = [route]
    assert len(group(add.s(number) for number in range(2)).apply_async(priority=1)) == 2
    assert len(sent.messages(app, "add-0")) == len(sent.messages(app, "add-1")) == 1


def test_members_that_the_encoder_takes_slowly(app: Umbel) -> None:
    @app.task(name="pickled", serializer="pickle", compression="zlib")
    def pickled(x: int) -> None: ...

    with pytest.warns(SecurityWarning, match="pickled's serializer names pickle"):
        result = group(pickled.s(number) for number in range(3)).apply_async()
    found = sent.requests(app)
    assert [(each.args, each.group, each.group_index) for each in found] == [
        ([number], result.id, number) for number in range(3)
    ]


def test_a_group_of_a_generator_is_sent_by_the_application_of_its_members(
    add: AddTask, app: Umbel
) -> None:
    with Umbel("other", "memory://other"):  # the current one
        result = group(add.s(number) for number in range(3)).apply_async()
    assert result.app is app
    assert len(sent.messages(app)) == 3


def test_a_group_of_a_generator_is_sent_once(add: AddTask) -> None:
    made = group(add.s(number) for number in range(3))
    assert len(made.apply_async()) == 3
    for _ in range(2):
        with pytest.raises(RuntimeError, match="make it of a list"):
            made.apply_async()
    listed = group([add.s(1)])
    assert len(listed.apply_async()) == len(listed.apply_async()) == 1


def test_an_error_in_the_middle_tells_what_was_sent(
    add: AddTask, app: Umbel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SLICE", 10)
    members = (add.s(number) if number != 25 else add.s(1, 2, 3) for number in range(30))
    with pytest.raises(TypeError, match=r"add\(\)") as caught:
        group(members).apply_async()
    assert caught.value.__notes__ == ["The first 20 members of the group were sent."]
    assert len(sent.messages(app)) == 20


def test_a_group_obeys_the_options_of_publishing(add: AddTask, app: Umbel) -> None:
    transport = app.servers().broker.transport
    with pytest.raises(PublishError, match="not confirmed"):
        group([add.s(1)]).apply_async(deadline_in=-1.0)
    assert transport.depth(["celery"])["celery"].ready == 0


def test_an_empty_group(app: Umbel) -> None:
    empty: group[int] = group([], app=app)
    assert empty.apply_async().results == []
    assert empty
    assert sent.messages(app) == []


def test_a_group_from_its_serialised_form(add: AddTask) -> None:
    made = group([add.s(1), add.s(2)])
    again = maybe_signature(json.loads(json.dumps(made)))
    assert isinstance(again, group)
    assert [each["args"] for each in again.tasks] == [[1], [2]]
    assert again.subtask_type == "group"
    frozen = again.freeze()
    assert [each.options["group_index"] for each in again.tasks] == [0, 1]
    assert frozen.id == again.options["task_id"]


# --- chains


def test_a_chain_sends_its_first_link_with_the_others(add: AddTask, app: Umbel) -> None:
    result = (add.s(1, 2) | add.s(3) | add.s(4)).apply_async()
    request = sent.request(app)
    assert request.args == [1, 2]
    rest = request.chain or []
    assert [each["args"] for each in rest] == [[4], [3]]  # the next one is the last
    parents: list[Any] = list(result.ancestors())
    ids = [each["options"]["task_id"] for each in rest]
    assert [*ids, request.id] == [result.id, *(each.id for each in parents)]


def test_options_of_a_chain(add: AddTask, app: Umbel) -> None:
    made = chain(add.s(1, 2), add.s(3), queue="q")
    result = made.apply_async(
        task_id="last", link=add.s(5), link_error=add.si(6), countdown=0, priority=2
    )
    assert result.id == "last"
    (message,) = sent.messages(app, "q")
    assert message.priority == 2
    made.apply_async()
    request = sent.request(app, "q")
    assert request.callbacks is None
    assert request.errbacks is None
    assert made == chain(add.s(1, 2), add.s(3), queue="q")  # sending changed nothing


def test_chains_join_and_nest(add: AddTask) -> None:
    made = (add.s(1) | add.s(2)) | (add.s(3) | add.s(4))
    assert isinstance(made, chain)
    assert [each.args for each in made.tasks] == [(1,), (2,), (3,), (4,)]
    assert repr(made) == "add(1) | add(2) | add(3) | add(4)"
    given: Any = dict(add.s(0))
    assert [each["args"] for each in (given | made).tasks] == [(0,), (1,), (2,), (3,), (4,)]
    with pytest.raises(TypeError):
        add.s(1) | 3  # type: ignore[operator]


def test_a_chain_in_a_group(add: AddTask, app: Umbel) -> None:
    result = group([chain(add.s(1, 1), add.s(2)), add.s(3)]).apply_async()
    first, second = sent.requests(app)
    assert (first.group, second.group) == (None, result.id)
    (last,) = first.chain or []
    assert last["options"]["group_id"] == result.id
    assert last["options"]["task_id"] == result.results[0].id


def test_members_are_checked_told_of_and_sent_as_their_task_wants(add: AddTask, app: Umbel) -> None:
    with pytest.raises(TypeError, match=r"add\(\)"):
        group([add.s(1), add.s(1, 2, 3)]).apply_async()
    assert sent.messages(app) == []

    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["trace"] = "t"

    signals.before_task_publish.connect(before, sender="add")
    try:
        group([add.s(1), chain(add.s(1), add.s(2))]).apply_async(queue="q")
    finally:
        signals.before_task_publish.disconnect(before, sender="add")
    found = sent.requests(app, "q")
    assert [each.headers for each in found] == [{"trace": "t"}] * 2
    (last,) = found[1].chain or []
    assert last["options"]["queue"] == "q"

    class Own(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().apply_async((*args, "own"), kwargs, **options)

    @app.task(base=Own)
    def own(x: int, mark: str = "") -> None: ...

    result = group([own.s(1)]).apply_async()
    request = sent.request(app)
    assert (request.args, request.group) == ([1, "own"], result.id)


def test_children_of_a_task_are_groups_and_chains_too(add: AddTask, app: Umbel) -> None:
    running = Request(id="parent", task="t", root_id="root")
    token = current_request.set(running)
    try:
        results: list[Any] = [group([add.s(1)]).apply_async(), (add.s(1) | add.s(2)).delay()]
    finally:
        current_request.reset(token)
    assert running.children == results
    assert {(each.parent_id, each.root_id) for each in sent.requests(app)} == {("parent", "root")}


def test_an_empty_chain_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="empty chain"):
        chain([]).apply_async()
