"""Follow-ups that cannot be sent: the task that caused them fails, and its caller is told why."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.system.engines import running
from umbel import Queue, Umbel, chain, signals
from umbel.exceptions import EncodeError, QueueNotFound, Unroutable

#: Where no queue is bound.
NOWHERE = {"exchange": "nowhere", "routing_key": "x"}


@pytest.fixture(params=["memory", "sqlite", "redis", "ordered", "rabbitmq"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Umbel]:
    memory, sqlite = f"memory://{tmp_path.name}", f"sqlite:///{tmp_path}/queue.sqlite"
    match request.param:
        case "memory" | "sqlite":
            settings: dict[str, Any] = {
                "broker_url": memory if request.param == "memory" else sqlite
            }
        case "ordered":
            settings = {"broker_url": memory, "result_backend": sqlite}
        case "redis":
            settings = {"broker_url": request.getfixturevalue("redis_url")}
        case _:
            settings = {"broker_url": request.getfixturevalue("rabbitmq_url"), "ledger_url": sqlite}
    with Umbel("follow-ups", **settings) as made:
        yield made


@pytest.fixture
def told(app: Umbel) -> list[str]:
    """Define the tasks; return what the errbacks are told."""
    told: list[str] = []

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail() -> None:
        raise KeyError("its own")

    @app.task(name="again", bind=True)
    def again(self: Any) -> None:
        self.retry(countdown=0, **NOWHERE)

    @app.task(name="early", acks_late=False)
    def early() -> int:
        return 1

    @app.task(name="sent")
    def sent(task_id: str) -> None:
        told.append(task_id)

    @app.task(name="called")
    def called(_request: Any, error: BaseException, _traceback: str) -> None:
        told.append(type(error).__name__)

    return told


def letters(app: Umbel) -> list[tuple[str, str]]:
    ledger = app.servers().ledger
    assert ledger is not None
    return [(each.message.id, each.reason) for each in ledger.dead_letters()]


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("name", ["add", "early"])
def test_a_callback_that_leads_nowhere_is_the_failure_of_its_task(app: Umbel, name: str) -> None:
    args = (2, 3) if name == "add" else ()
    link = app.signature("add", (1,), options=NOWHERE)
    with running(app):
        result = app.send_task(name, args, link=link)
        with pytest.raises(Unroutable, match="nowhere"):
            result.get(timeout=60)
        assert app.send_task("add", (1, 1)).get(timeout=60) == 2  # the worker goes on
    if name == "add":
        ((letter, reason),) = letters(app)
        assert letter == result.id
        assert "nowhere" in reason


def test_later_links_and_errbacks_hear_of_it(app: Umbel, told: list[str]) -> None:
    first = app.signature("add", (1, 1))
    lost = app.signature("add", (1,), options=NOWHERE)
    last = app.signature("add", (1,))
    whole = chain(first, lost, last, app=app)
    whole.tasks[0].set(link_error=[app.signature("sent"), app.signature("called")])
    with running(app):
        result = whole.apply_async()
        with pytest.raises(Unroutable, match="nowhere"):
            result.get(timeout=60)
        assert result.state == "FAILURE"  # the last one's own, not only its parent's
        app.send_task("add", (1, 1)).get(timeout=60)  # behind the errback
    assert sorted(told) == sorted([result.parent.parent.id, "Unroutable"])


@pytest.mark.usefixtures("told")
def test_a_retry_that_leads_nowhere_is_a_failure(app: Umbel) -> None:
    with running(app), pytest.raises(Unroutable, match="nowhere"):
        app.send_task("again").get(timeout=60)


def test_an_errback_that_leads_nowhere_leaves_the_failure_as_it_is(
    app: Umbel, told: list[str]
) -> None:
    errbacks = [app.signature("sent", options=NOWHERE), app.signature("sent")]
    with running(app):
        result = app.send_task("fail", link_error=errbacks)
        with pytest.raises(KeyError, match="its own"):
            result.get(timeout=60)
        app.send_task("add", (1, 1)).get(timeout=60)
    assert set(told) == {result.id}
    ((letter, reason),) = letters(app)
    assert letter == result.id
    assert "nowhere" in reason


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue": "unheard"}, QueueNotFound),
        ({"serializer": "xml"}, Exception),
        ({"countdown": "soon"}, TypeError),
    ],
)
def test_a_follow_up_that_cannot_even_be_made_is_a_failure_too(
    app: Umbel, told: list[str], options: dict[str, Any], error: type[Exception]
) -> None:
    app.conf.task_queues = [Queue("celery")]
    app.conf.task_create_missing_queues = False
    with running(app):
        link = app.signature("add", (1,), options=options)
        result = app.send_task("add", (2, 3), link=link, link_error=app.signature("called"))
        with pytest.raises(error):
            result.get(timeout=60)
        result = app.send_task("fail", link_error=app.signature("sent", options=options))
        with pytest.raises(KeyError, match="its own"):
            result.get(timeout=60)
        assert app.send_task("add", (1, 1)).get(timeout=60) == 2
    assert len(told) == 1
    assert len(letters(app)) == 2


def test_progress_that_cannot_be_stored_raises_where_it_was_reported(app: Umbel) -> None:
    @app.task(bind=True)
    def reports(self: Any) -> str:
        with pytest.raises(EncodeError):
            self.update_state(state="PROGRESS", meta={"what": {1, 2}})
        return "goes on"

    with running(app):
        assert reports.delay().get(timeout=60) == "goes on"


@pytest.mark.usefixtures("told")
def test_follow_ups_and_retries_are_shown_to_receivers_of_signals(app: Umbel) -> None:
    @app.task(name="twice", bind=True)
    def twice(self: Any) -> Any:
        if self.request.retries == 0:
            self.retry(countdown=0)
        return self.request.headers

    @app.task(name="seen", bind=True)
    def seen(self: Any, before: Any) -> list[Any]:
        return [before, self.request.headers]

    sent: list[str] = []

    def mark(sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        headers["mark"] = [*body[0], sender]

    def note(sender: str, **_: Any) -> None:
        sent.append(sender)

    signals.before_task_publish.connect(mark)
    signals.after_task_publish.connect(note)
    try:
        with running(app):
            first = twice.apply_async(link=[seen.s()])
            assert first.get(timeout=60) == {"mark": ["twice"]}
            assert first.children is not None
            assert first.children[0].get(timeout=60)[1] == {"mark": [{"mark": ["twice"]}, "seen"]}
    finally:
        signals.before_task_publish.disconnect(mark)
        signals.after_task_publish.disconnect(note)
    assert sent == ["twice", "twice", "seen"]
