"""Tasks: what a call sends, what a run sees."""

# ruff: noqa: ARG001, ARG002, TRY301 -- tasks of tests need not use what they take

from __future__ import annotations

import asyncio
import datetime as dt
import pickle
from collections.abc import Mapping
from typing import Any

import pydantic
import pytest

from tests.unit import sent
from umbel import AsyncResult, Task, Umbel, signals
from umbel.clock import SYSTEM_CLOCK
from umbel.context import current_request, reporter
from umbel.exceptions import (
    MaxRetriesExceededError,
    MessageTooLarge,
    Retry,
    SecurityWarning,
    Unroutable,
)
from umbel.topology import Exchange, Queue
from umbel.wire.task import Request


class Running:
    """Be inside of a task, as in a worker."""

    def __init__(self, **fields: Any) -> None:
        about = {"id": "parent", "task": "shop.parent", "root_id": "root", "called_directly": False}
        self.request = Request(**{**about, **fields})

    def __enter__(self) -> Request:
        self.token = current_request.set(self.request)
        return self.request

    def __exit__(self, *_: object) -> None:
        current_request.reset(self.token)


# --- defining


def test_a_task_is_named_after_its_module_and_function(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        """Add."""
        return x

    assert add.name == f"{__name__}.add"
    assert app.tasks[add.name] is add
    assert add.__doc__ == "Add."
    assert add.__module__ == __name__
    assert add.app is app
    assert repr(add) == f"<@task: {__name__}.add of shop>"


def test_in_main_it_is_named_after_the_application(app: Umbel) -> None:
    def add(x: int) -> int:
        return x

    add.__module__ = "__main__"
    assert app.task(add).name == "shop.add"


def test_options_are_attributes(app: Umbel) -> None:
    @app.task(name="n", max_retries=7, rate_limit="3/m", throws=(KeyError,))
    def add() -> None: ...

    assert (add.name, add.max_retries, add.rate_limit) == ("n", 7, "3/m")
    assert tuple(add.throws) == (KeyError,)
    assert add.acks_late is None  # as task_acks_late says


def test_a_misspelt_option_is_an_error_with_a_suggestion(app: Umbel) -> None:
    with pytest.raises(TypeError, match=r"no option 'max_retrys'.*did you mean 'max_retries'"):
        app.task(max_retrys=3)(print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="options are given by name"):
        app.task("name")  # type: ignore[call-overload]


def test_a_base_may_have_options_of_its_own(app: Umbel) -> None:
    class Audited(Task[..., Any]):
        audit = "no"

    def add() -> None: ...

    options: dict[str, Any] = {"base": Audited, "audit": "yes"}
    task: object = app.task(**options)(add)
    assert isinstance(task, Audited)
    assert task.audit == "yes"


def test_class_based(app: Umbel) -> None:
    class Add(Task[[int, int], int]):
        def run(self, x: int, y: int) -> int:
            return x + y

    task = app.register_task(Add())
    assert task.name == f"{__name__}.Add"
    assert task(1, 2) == 3
    task.delay(1, 2)
    assert sent.request(app).args == [1, 2]
    with pytest.raises(TypeError):
        task.delay(1)  # type: ignore[call-arg]


# --- calling as a function


def test_a_plain_call_runs_it(app: Umbel) -> None:
    @app.task(bind=True)
    def who(self: Task[..., Any], x: int) -> tuple[bool, list[Any], Any]:
        return self.request.called_directly, self.request.args, self.request.id

    assert who(3) == (True, [3], None)
    with Running(task=who.name, id="running"):
        assert who.request.id == "running"
        assert who(4) == (True, [4], None)  # another call than the one that runs
        assert who.request.id == "running"
    assert sent.messages(app) == []


def test_a_plain_call_of_a_coroutine_task(app: Umbel) -> None:
    @app.task(bind=True)
    async def who(self: Task[..., Any], x: int) -> list[Any]:
        await asyncio.sleep(0)
        return self.request.args

    async def both() -> list[Any]:
        return [*await asyncio.gather(who(1), who(2))]

    assert asyncio.run(both()) == [[1], [2]]


def test_an_overriding_call_sees_the_workers_request(app: Umbel) -> None:
    class Wrapped(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    @app.task(bind=True, base=Wrapped)
    def who(self: Task[..., Any], again: bool = False) -> Any:  # noqa: FBT001, FBT002
        return (self.request.id, self(again=False)) if again else self.request.id

    with Running(task=who.name, id="running"):
        assert who() == "running"
        assert who(again=True) == ("running", None)
    assert who() is None


# --- sending


def test_delay(app: Umbel) -> None:
    @app.task
    def add(x: int, y: int = 1) -> int:
        return x + y

    before = SYSTEM_CLOCK.now()
    result = add.delay(1, y=2)
    assert isinstance(result, AsyncResult)
    (message,) = sent.messages(app)
    assert (message.id, message.exchange, message.routing_key) == (result.id, "", "celery")
    assert before <= message.sent_at <= SYSTEM_CLOCK.now()
    headers = message.headers
    assert (headers["task"], headers["id"], headers["root_id"]) == (add.name, result.id, result.id)
    assert headers["parent_id"] is None
    assert headers["origin"].startswith("gen")
    assert headers["ignore_result"] is False


def test_arguments_are_checked_before_anything_is_sent(app: Umbel) -> None:
    @app.task
    def add(x: int, y: int = 1, *, z: int = 2) -> int:
        return x + y + z

    for call in (
        lambda: add.delay(),  # type: ignore[call-arg]  # noqa: PLW0108 -- typed, it is not callable so
        lambda: add.delay(1, 2, 3),  # type: ignore[call-arg]
        lambda: add.delay(1, w=2),  # type: ignore[call-arg]
        lambda: add.apply_async((1,), {"x": 2}),
        lambda: app.send_task(add.name, (1, 2, 3)),
    ):
        with pytest.raises(TypeError, match=r"^add\(\) "):
            call()
    assert sent.messages(app) == []
    add.apply_async((1,), {"z": 2})
    assert sent.request(app).kwargs == {"z": 2}


def test_unless_typing_is_off(app: Umbel) -> None:
    @app.task(typing=False)
    def add(x: int) -> int:
        return x

    add.apply_async((1, 2, 3))
    loose = Umbel("loose", app.conf.broker_url, strict_typing=False, set_as_current=False)
    loose.task(name="loose.add")(lambda x: x).apply_async((1, 2))
    assert len(sent.messages(app)) == 2


def test_all_options_travel(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    result = add.apply_async(
        (1,),
        task_id="id",
        expires=60,
        priority=5,
        queue="fast",
        link=add.s(10),
        link_error=[add.si(20), add.si(30)],
        headers={"tenant": "t"},
        ignore_result=True,
        time_limit=9,
        soft_time_limit=8,
        shadow="other",
        reply_to="me",
        group_id="g",
        group_index=3,
        root_id="r",
        parent_id="p",
        compression="zlib",
        serializer="pickle",
    )
    assert result.id == "id"
    assert result.ignored
    (message,) = sent.messages(app, "fast")
    assert message.content_type == "application/x-python-serialize"
    assert message.priority == 5
    assert message.expires_at == pytest.approx(SYSTEM_CLOCK.now() + 60, abs=5)
    headers = message.headers
    assert headers["timelimit"] == [9, 8]
    for name, value in {
        "id": "id",
        "tenant": "t",
        "ignore_result": True,
        "shadow": "other",
        "group": "g",
        "group_index": 3,
        "root_id": "r",
        "parent_id": "p",
    }.items():
        assert headers[name] == value
    assert message.reply_to == "me"


def test_links_travel_as_signatures(app: Umbel) -> None:
    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    add.apply_async((1,), link=add.s(10), link_error=[add.si(20, y=1)])
    request = sent.request(app)
    assert request.callbacks == [
        {
            "task": add.name,
            "args": [10],
            "kwargs": {},
            "options": {},
            "subtask_type": None,
            "immutable": False,
        }
    ]
    (errback,) = request.errbacks or []
    assert (errback["args"], errback["kwargs"], errback["immutable"]) == ([20], {"y": 1}, True)


def test_delayed_calls_wait_in_the_server(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    add.apply_async((1,), countdown=60)
    add.apply_async((1,), eta=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    assert sent.messages(app) == []
    assert app.servers().broker.transport.depth(["celery"])["celery"].delayed == 2


def test_a_misspelt_option_of_a_call(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    with pytest.raises(TypeError, match="did you mean 'countdown'"):
        add.apply_async((1,), countdwn=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("arguments", [("ab",), (1,), ((), [1])])
def test_arguments_of_a_wrong_kind(app: Umbel, arguments: Any) -> None:
    @app.task(typing=False)
    def add() -> None: ...

    with pytest.raises(TypeError, match=r"args: expected a"):
        add.apply_async(*arguments)


def test_task_options_are_options_of_each_call(app: Umbel) -> None:
    @app.task(queue="own", priority=7, expires=30, serializer="pickle", time_limit=3)
    def add(x: int) -> int:
        return x

    with pytest.warns(SecurityWarning, match="serializer names pickle"):
        add.delay(1)
    (message,) = sent.messages(app, "own")
    assert (message.priority, message.headers["timelimit"]) == (7, [3, None])
    assert message.content_type == "application/x-python-serialize"
    assert message.headers["expires"] is not None
    add.apply_async((1,), queue="other", priority=1)
    (message,) = sent.messages(app, "other")
    assert message.priority == 1


def test_messages_may_be_transient(app: Umbel) -> None:
    @app.task
    def add() -> None: ...

    add.delay()
    app.conf.task_default_delivery_mode = "transient"
    add.delay()
    app.send_task("else.where")
    add.apply_async(delivery_mode="persistent")
    found = [(each.properties or {}).get("delivery_mode", 2) for each in sent.messages(app)]
    assert found == [2, 1, 1, 2]


def test_routes_apply_unless_the_task_or_the_call_says_otherwise(app: Umbel) -> None:
    app.conf.task_routes = {f"{__name__}.*": {"queue": "routed", "priority": 4}}

    @app.task
    def add(x: int) -> int:
        return x

    @app.task(queue="own")
    def sub(x: int) -> int:
        return x

    add.delay(1)
    sub.delay(1)
    add.apply_async((1,), queue="called")
    (routed,) = sent.messages(app, "routed")
    assert routed.priority == 4
    assert len(sent.messages(app, "own")) == len(sent.messages(app, "called")) == 1


def test_routes_by_arguments(app: Umbel) -> None:
    def by_customer(name: str, args: Any, *_: Any, **__: Any) -> str | None:
        return f"customer-{args[0]}" if name.endswith("bill") else None

    app.conf.task_routes = (by_customer,)

    @app.task
    def bill(customer: int) -> None: ...

    bill.delay(1)
    bill.delay(2)
    assert len(sent.messages(app, "customer-1")) == len(sent.messages(app, "customer-2")) == 1


def test_a_change_of_the_configuration_counts_from_the_next_call(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    add.delay(1)
    app.conf.task_default_queue = "new"
    add.delay(1)
    assert len(sent.messages(app)) == 1
    assert len(sent.messages(app, "new")) == 1


def test_exchanges(app: Umbel) -> None:
    media = Exchange("media", "topic")
    app.conf.task_queues = [Queue("images", media, "image.#"), Queue("all", media, "#")]

    @app.task
    def add(x: int) -> int:
        return x

    add.apply_async((1,), exchange="media", routing_key="image.png")
    add.apply_async((2,), exchange="media", routing_key="video.avi")
    assert [each.args for each in sent.requests(app, "images")] == [[1]]
    assert [each.args for each in sent.requests(app, "all")] == [[1], [2]]
    with pytest.raises(Unroutable):
        add.apply_async((3,), exchange="elsewhere", exchange_type="direct", routing_key="x")


def test_a_large_message(app: Umbel) -> None:
    app.conf.task_max_message_size = 1000

    @app.task
    def add(x: str) -> None: ...

    with pytest.raises(MessageTooLarge):
        add.delay("x" * 1000)


def test_from_coroutines(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    async def send() -> list[Any]:
        calls = [add.adelay(number) for number in range(20)]
        return await asyncio.gather(*calls, add.aapply_async((20,), queue="other"))

    results = asyncio.run(send())
    messages = sent.messages(app, "celery", "other")
    assert sorted(each.id for each in messages) == sorted(each.id for each in results)


# --- inside of a task


def test_children_know_their_parents(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    with Running() as parent:
        first = add.delay(1)
        second = add.apply_async((1,), root_id="other")
        add.apply_async((1,), add_to_parent=False)
    assert parent.children == [first, second]
    headers = [each.headers for each in sent.messages(app)]
    assert [each["parent_id"] for each in headers] == ["parent"] * 3
    assert [each["root_id"] for each in headers] == ["root", "other", "root"]


def test_priority_is_inherited_if_asked(app: Umbel) -> None:
    app.conf.task_inherit_parent_priority = True

    @app.task
    def add(x: int) -> int:
        return x

    with Running(delivery_info={"priority": 8}):
        add.delay(1)
        add.apply_async((1,), priority=2)
    assert sorted(each.priority for each in sent.messages(app)) == [2, 8]


def test_retry_says_what_shall_happen(app: Umbel) -> None:
    @app.task(bind=True, max_retries=3)
    def job(self: Task[..., Any], x: int) -> None: ...

    with Running(task=job.name, retries=2, args=[1]):
        with pytest.raises(Retry) as caught:
            job.retry(args=(2,), countdown=5, exc=ValueError("no"), queue="slow", expires=60)
        verdict = caught.value
        assert verdict.when == 5
        assert isinstance(verdict.exc, ValueError)
        assert verdict.sig["args"] == (2,)
        options = verdict.sig["options"]
        assert (options["exchange"], options["routing_key"]) == ("", "slow")
        assert options["expires_at"] > SYSTEM_CLOCK.now()

        with pytest.raises(Retry) as caught:
            job.retry()
        assert caught.value.when == 180
        assert not caught.value.sig

        eta = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
        assert job.retry(eta=eta, throw=False).when == eta


def test_retry_has_an_end(app: Umbel) -> None:
    @app.task(bind=True, max_retries=3)
    def job(self: Task[..., Any]) -> None: ...

    with Running(task=job.name, id="id", retries=3):
        with pytest.raises(MaxRetriesExceededError, match="was retried 3 times"):
            job.retry()
        with pytest.raises(ValueError, match="final"):
            job.retry(exc=ValueError("final"))
        with pytest.raises(Retry):
            job.retry(max_retries=4)
    with Running(task=job.name, retries=0), pytest.raises(MaxRetriesExceededError):
        job.retry(max_retries=0)


def test_retry_keeps_the_exception_that_it_answers(app: Umbel) -> None:
    @app.task(bind=True)
    def job(self: Task[..., Any]) -> None: ...

    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            job.retry()

    with Running(task=job.name), pytest.raises(Retry) as caught:
        fail()
    assert isinstance(caught.value.exc, KeyError)
    assert isinstance(caught.value.__cause__, KeyError)


def test_retry_of_a_plain_call_raises_what_went_wrong(app: Umbel) -> None:
    @app.task(bind=True)
    def job(self: Task[..., Any]) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise self.retry(exc=error) from error

    with pytest.raises(KeyError):
        job()


def test_states_go_to_the_reporter_or_to_the_store(app: Umbel) -> None:
    @app.task(bind=True)
    def job(self: Task[..., Any]) -> None: ...

    told: list[tuple[Any, str, Any]] = []

    def report(request: Request, state: str, meta: Any) -> None:
        told.append((request.id, state, meta))

    with Running(task=job.name, id="running"):
        token = reporter.set(report)
        job.update_state(state="PROGRESS", meta={"done": 1})
        job.update_state(task_id="other", state="PROGRESS", meta={"done": 2})
        reporter.reset(token)
    assert told == [("running", "PROGRESS", {"done": 1})]
    other = job.AsyncResult("other")
    assert (other.state, other.info) == ("PROGRESS", {"done": 2})
    with pytest.raises(TypeError, match="expected a state"):
        job.update_state(meta={"done": 3})
    job.update_state(state="PROGRESS")  # called as a function: nobody to be told


# --- signals, names, models


def test_receivers_may_add_headers(app: Umbel) -> None:
    told: list[Any] = []

    def before(sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        headers["trace"] = "t"
        told.append((sender, body))

    def after(sender: str, headers: Mapping[str, Any], **_: Any) -> None:
        told.append((sender, headers["id"]))

    @app.task
    def add(x: int) -> int:
        return x

    add.delay(0)  # compiled before anybody listens
    signals.before_task_publish.connect(before, sender=add.name)
    signals.after_task_publish.connect(after, sender=add.name)
    try:
        result = add.delay(1)
    finally:
        signals.before_task_publish.disconnect(before, sender=add.name)
        signals.after_task_publish.disconnect(after, sender=add.name)
    assert told == [(add.name, ((1,), {}, {})), (add.name, result.id)]
    assert [each.headers for each in sent.requests(app)] == [None, {"trace": "t"}]


def test_shadow_names(app: Umbel) -> None:
    class Named(Task[..., Any]):
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"add {args[0]}"

    @app.task(base=Named)
    def add(x: int) -> int:
        return x

    add.delay(3)
    assert sent.request(app).shadow == "add 3"


class Order(pydantic.BaseModel):
    number: int
    placed: dt.date | None = None


def test_pydantic_models(app: Umbel) -> None:
    @app.task(pydantic=True)
    def ship(order: Order, boxes: int = 1) -> Order:
        assert isinstance(order, Order)
        return Order(number=order.number * boxes)

    ship.delay(Order(number=3, placed=dt.date(2030, 1, 2)), boxes=2)
    request = sent.request(app)
    assert request.args == [{"number": 3, "placed": "2030-01-02"}]
    run: Any = ship.run  # what a worker calls with what came over the wire
    assert run(*request.args, **request.kwargs) == {"number": 6, "placed": None}
    with pytest.raises(pydantic.ValidationError):
        run({"number": "x"})


def test_a_task_travels_by_its_name(app: Umbel) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    assert pickle.loads(pickle.dumps(add)) is add
