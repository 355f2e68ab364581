"""Assertions about what waits on memory://."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY
from zoneinfo import ZoneInfo

import pytest

from umbel import Task, Umbel
from umbel.message import Message
from umbel.testing import (
    FakeClock,
    assert_enqueued,
    enqueued,
    in_memory,
    refute_enqueued,
    run_until_idle,
)
from umbel.testing.clock import START


@pytest.fixture
def app() -> Iterator[Umbel]:
    made = Umbel("calls", set_as_current=False)
    with in_memory(made, clock=FakeClock()):
        yield made


@pytest.fixture
def mail(app: Umbel) -> Task[..., Any]:
    @app.task(name="mail")
    def mail(to: Any, **more: Any) -> None: ...

    return mail


def test_a_call_is_shown_as_it_was_sent(app: Umbel, mail: Task[..., Any]) -> None:
    result = mail.apply_async(
        ((1, 2),),
        {"day": dt.date(2030, 1, 2)},
        queue="q",
        priority=3,
        countdown=60,
        expires=90,
        headers={"tenant": "t"},
    )
    call = assert_enqueued(app)
    assert (call.task, call.id, call.queue, call.priority) == ("mail", result.id, "q", 3)
    assert (call.args, call.kwargs) == ([[1, 2]], {"day": dt.date(2030, 1, 2)})
    assert (call.due_at, call.expires_at, call.retries) == (START + 60, START + 90, 0)
    assert call.headers == {"tenant": "t"}
    assert str(call) == "mail([1, 2], day=datetime.date(2030, 1, 2))"


@pytest.mark.parametrize(
    ("criteria", "found"),
    [
        ({"args": ("a",)}, ["now", "later"]),
        ({"args": ["a"], "kwargs": {}}, ["now"]),
        ({"args": (ANY,)}, ["now", "later", "low"]),
        ({"kwargs": {"pair": (1, 2)}}, ["later"]),
        ({"args": ("x",)}, []),
        ({"queue": "q"}, ["low"]),
        ({"priority": 7}, ["low"]),
        ({"countdown": 0}, ["now", "low"]),
        ({"countdown": 3600.5}, ["later"]),
        ({"countdown": 3602}, []),
        ({"eta": dt.datetime.fromtimestamp(START + 3600, dt.UTC)}, ["later"]),
        ({"eta": dt.datetime.fromtimestamp(START + 3600, dt.UTC).replace(tzinfo=None)}, ["later"]),
    ],
)
def test_criteria(
    app: Umbel, mail: Task[..., Any], criteria: dict[str, Any], found: list[str]
) -> None:
    mail.apply_async(("a",), task_id="now")
    mail.apply_async(("a",), {"pair": (1, 2)}, countdown=3600, task_id="later")
    mail.apply_async(("b",), queue="q", priority=7, task_id="low")
    assert {call.id for call in enqueued(app, mail, **criteria)} == set(found)


def test_a_time_without_a_zone_is_in_the_applications(app: Umbel, mail: Task[..., Any]) -> None:
    app.conf.timezone = "Asia/Tokyo"
    eta = dt.datetime.fromtimestamp(START + 3600, ZoneInfo("Asia/Tokyo")).replace(tzinfo=None)
    mail.apply_async(("a",), eta=eta)
    assert assert_enqueued(app, eta=eta).due_at == START + 3600


def test_tasks_are_named_or_given(app: Umbel, mail: Task[..., Any]) -> None:
    app.send_task("other")
    mail.delay(1)
    mail.delay(2)
    assert assert_enqueued(app, "other").args == []
    assert assert_enqueued(app, mail, count=2).args == [1]
    assert len(enqueued(app)) == 3
    refute_enqueued(app, "nobody")
    assert_enqueued(app, count=3)  # looking takes nothing away


def test_what_ran_waits_no_more(app: Umbel, mail: Task[..., Any]) -> None:
    mail.delay(1)
    run_until_idle(app)
    refute_enqueued(app)


def test_failures_say_what_waits_instead(app: Umbel, mail: Task[..., Any]) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(app, mail)
    assert str(caught.value) == "expected a call of mail, found none; nothing waits"
    mail.apply_async(("a",), countdown=90, priority=2)
    mail.delay("b")
    waits = "what waits is\n  mail('b') in celery\n  mail('a') in celery, priority 2, due in 90 s"
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(app, mail, args=("c",))
    assert str(caught.value) == f"expected a call of mail with args=('c',), found none; {waits}"
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(app, count=3)
    assert str(caught.value) == f"expected 3 calls of any task, found 2; {waits}"
    with pytest.raises(AssertionError) as caught:
        refute_enqueued(app, mail, queue="celery")
    assert str(caught.value) == (f"expected no call of mail with queue='celery', found 2; {waits}")


def test_eager_calls_do_not_wait(app: Umbel, mail: Task[..., Any]) -> None:
    app.conf.task_always_eager = True
    mail.delay(1)
    with pytest.raises(AssertionError, match="task_always_eager is on"):
        assert_enqueued(app, mail)


def test_a_misspelt_criterion_is_an_error(app: Umbel) -> None:
    wrong: Any = {"arg": (1,)}
    with pytest.raises(TypeError, match=r"no criterion 'arg': expected one of args, kwargs"):
        enqueued(app, **wrong)


def test_what_is_no_call_is_shown_too(app: Umbel) -> None:
    app.send_task("job")
    app.publisher.publish([Message("i", b"not json", {"task": "odd"}, "celery")])
    assert [str(call) for call in enqueued(app)] == ["job()", "odd()"]
