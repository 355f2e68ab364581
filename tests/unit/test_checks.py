"""Wrong options are refused where they are given, in words that say what was expected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from umbel import Task, Umbel, chain, group
from umbel.exceptions import NotRegistered


@pytest.fixture
def app() -> Iterator[Umbel]:
    with Umbel("checks", "memory://checks", set_as_current=False) as made:
        yield made


@pytest.fixture
def add(app: Umbel) -> Task[[int, int], int]:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


WRONG_OPTIONS: dict[str, tuple[Any, str]] = {
    "countdown": ("3", "a number of seconds"),
    "expires": (float("nan"), "a number of seconds, a timedelta"),
    "eta": (5, "a datetime or an ISO 8601 text"),
    "priority": (-1, "a whole number from 0 to 255"),
    "queue": ("", "a name or a Queue"),
    "exchange": (3, "a name or an Exchange"),
    "exchange_type": ("fanot", "one of 'direct', 'topic', 'fanout', 'headers'"),
    "routing_key": (4, "a text"),
    "task_id": ("x" * 256, "a text of at most 255 bytes"),
    "shadow": ("", "a text that is not empty"),
    "group_id": ("a\0b", "a text that .* has no NUL"),
    "root_id": ("\ud800", "a text that .* or lone surrogate"),
    "link": ("add", "a signature"),
    "link_error": ([5], "a signature"),
    "headers": ({1: 2}, "a dict with texts as keys"),
    "ignore_result": ("no", "True or False"),
    "time_limit": ("5", "a number of seconds, 0 or more"),
    "soft_time_limit": (-1, "a number of seconds, 0 or more"),
    "retry_policy": (5, "a dict"),
    "delivery_mode": ("fast", "'transient' or 'persistent'"),
    "group_index": (True, "a whole number"),
    "stamped_headers": ("tenant", "a list"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_what_an_option_of_a_call_cannot_be(add: Task[..., int], app: Umbel, name: str) -> None:
    value, expected = WRONG_OPTIONS[name]
    options: Any = {name: value}
    calls = (
        lambda: add.apply_async((1, 2), **options),
        lambda: app.send_task("elsewhere", **options),
        lambda: add.s(1, 2).set(**options).delay(),
        lambda: group(add.s(1, 2)).apply_async(**options),
        lambda: chain(add.s(1, 2), add.s(3)).apply_async(**options),
    )
    for call in calls:
        with pytest.raises(TypeError, match=f"{name}: expected .*{expected}"):
            call()


@pytest.mark.parametrize("delay", [float("inf"), 1e18])
def test_a_delay_has_an_end(add: Task[..., int], delay: float) -> None:
    with pytest.raises(TypeError, match="countdown"):
        add.apply_async((1, 2), countdown=delay)


def test_options_that_do_not_exist_are_refused_on_every_way(
    add: Task[..., int], app: Umbel
) -> None:
    wrong: Any = {"contdown": 1}
    for call in (
        lambda: add.apply_async((1, 2), **wrong),
        lambda: add.apply((1, 2), **wrong),
        lambda: app.send_task("elsewhere", **wrong),
        lambda: group(add.s(1, 2)).apply_async(**wrong),
        lambda: group(add.s(1, 2).set(**wrong)).apply_async(),
        lambda: chain(add.s(1, 2), add.s(3).set(**wrong)).apply_async(),
    ):
        with pytest.raises(TypeError, match="did you mean 'countdown'"):
            call()
    add.apply((1, 2), throw=True)


WRONG_ATTRIBUTES: dict[str, tuple[Any, str]] = {
    "name": (5, "a text"),
    "bind": ("yes", "True or False"),
    "base": (object, "a subclass of Task"),
    "max_retries": ("3", "a whole number, 0 or more or None"),
    "autoretry_for": ("ValueError", "a tuple of exception classes"),
    "throws": ([5], "a tuple of exception classes"),
    "retry_backoff": ("fast", "True, False or the first step's seconds"),
    "retry_kwargs": (5, "a dict"),
    "rate_limit": ("10/x", "a rate such as '10/m'"),
    "time_limit": ("3", "a number of seconds"),
    "acks_late": ("no", "True or False"),
    "queue": (5, "a name or a Queue"),
}


@pytest.mark.parametrize("name", WRONG_ATTRIBUTES)
def test_what_an_option_of_a_task_cannot_be(app: Umbel, name: str) -> None:
    value, expected = WRONG_ATTRIBUTES[name]
    options: Any = {name: value}
    with pytest.raises(TypeError, match=f"{name}: expected {expected}"):
        app.task(**options)(lambda: None)


def test_attributes_of_classes_and_annotations_are_checked_as_well(app: Umbel) -> None:
    class Slow(Task[[], None]):
        name = "slow"
        time_limit = "long"  # type: ignore[assignment]

        def run(self) -> None:
            """Do nothing."""

    with pytest.raises(TypeError, match="the task slow: time_limit: expected"):
        app.register_task(Slow)
    app.task(name="annotated")(lambda: None)
    app.conf.task_annotations = {"annotated": {"rate_limit": "often"}}
    with pytest.raises(TypeError, match="task_annotations of annotated: rate_limit: expected"):
        app.tasks["annotated"].delay()


def test_what_retry_kwargs_cannot_name(app: Umbel) -> None:
    app.task(retry_kwargs={"max_retries": 3, "countdown": 1, "args": (), "queue": "slow"})(min)
    with pytest.raises(TypeError, match="did you mean 'countdown'"):
        app.task(retry_kwargs={"contdown": 1})(max)


def test_one_exception_class_is_as_good_as_a_tuple_of_it(app: Umbel) -> None:
    one: Any = ValueError

    @app.task(throws=one, autoretry_for=one)
    def raises() -> None:
        """Do nothing."""

    assert (raises.throws, raises.autoretry_for) == ((ValueError,), (ValueError,))


def test_what_cannot_be_a_task(app: Umbel) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def more() -> AsyncIterator[int]:
        yield 1

    class Idle(Task[[], None]):
        name = "idle"

    wrong: Any = len
    for given, words in (
        (lambda: app.task(numbers), "a generator has no result"),
        (lambda: app.task(more), "a generator has no result"),
        (lambda: app.register_task(Idle), "has no run"),
        (lambda: app.register_task(wrong), "expected a Task"),
    ):
        with pytest.raises(TypeError, match=words):
            given()


@pytest.mark.usefixtures("add")
def test_unknown_tasks(app: Umbel) -> None:
    with pytest.raises(NotRegistered, match="'ad' is registered; did you mean 'add'"):
        app.tasks["ad"]
    with pytest.raises(NotRegistered, match="import the module"):
        app.signature("reports.total").apply()
    for wrong in ("", app.tasks["add"]):
        name: Any = wrong
        with pytest.raises(TypeError, match="name: expected a text"):
            app.send_task(name)


def test_the_id_of_a_result_is_a_text(app: Umbel) -> None:
    for wrong in (None, 5, "", app.AsyncResult("a")):
        given: Any = wrong
        with pytest.raises(ValueError, match="expected the id of a task"):
            app.AsyncResult(given)
