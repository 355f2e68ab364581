"""Applications: their registry, their configuration, their servers."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit import sent
from umbel import (
    AsyncResult,
    Task,
    Umbel,
    context,
    current_app,
    current_task,
    registry,
    shared_task,
    states,
)
from umbel.canvas.plan import Call
from umbel.context import current_request
from umbel.exceptions import AlreadyRegistered, ImproperlyConfigured, NotRegistered
from umbel.servers.ordered import OrderedCommit
from umbel.testing.clock import START, FakeClock
from umbel.wire.task import Request


@pytest.fixture(autouse=True)
def no_shared_tasks_are_left() -> Iterator[None]:
    before, current = list(registry.shared), context.current_app_or_none()
    yield
    registry.shared[:] = before
    context.set_current_app(current)


# --- the registry


def test_tasks_by_name(app: Umbel) -> None:
    @app.task(name="a")
    def a() -> None: ...

    assert app.tasks["a"] is a
    assert app.tasks.get("b") is None
    with pytest.raises(NotRegistered, match="no task named 'b' is registered"):
        app.tasks["b"]
    app.tasks.unregister(a)
    with pytest.raises(NotRegistered):
        app.tasks.unregister("a")


def test_two_tasks_of_one_name_are_an_error_unless_they_are_the_same(app: Umbel) -> None:
    def define() -> Task[[], None]:
        @app.task(name="n")
        def first() -> None: ...

        return first

    first, again = define(), define()
    assert first is not again  # as when a module is reloaded
    assert app.tasks["n"] is again

    def second() -> None: ...

    with pytest.raises(AlreadyRegistered, match=r"first is registered as 'n' already"):
        app.task(name="n")(second)


def test_shared_tasks_belong_to_every_application(app: Umbel) -> None:
    @shared_task(name="shared")
    def shared(x: int) -> int:
        return x

    other = Umbel("other", "memory://other-of-shared")  # made later, and current now
    assert app.tasks["shared"] is other.tasks["shared"] is shared
    shared.delay(1)
    app.set_current()
    shared.delay(2)
    assert sent.request(other).args == [1]
    assert sent.request(app).args == [2]
    assert shared.app is app
    other.send_task("shared", (3,))
    assert sent.request(other).args == [3]


def test_a_shared_task_may_come_before_any_application() -> None:
    context.set_current_app(None)

    @shared_task
    def early() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="there is no application yet"):
        early.delay()
    late = Umbel("late", "memory://late")
    early.delay()
    assert sent.request(late).task == f"{__name__}.early"


def test_the_class_of_tasks_may_be_another(request: Any) -> None:
    class InContext(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "in context", self.run(*args, **kwargs)

    app = Umbel("web", f"memory://{request.node.name}", task_cls=InContext, set_as_current=False)

    @app.task
    def view() -> int:
        return 1

    assert isinstance(view, InContext)
    assert view() == ("in context", 1)
    assert app.Task is InContext
    assert Umbel.Task is Task


# --- finding tasks


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, modules in {"one_of_test": ("tasks", "jobs"), "two_of_test": ()}.items():
        (tmp_path / name).mkdir()
        for module in ("__init__", *modules):
            (tmp_path / name / f"{module}.py").write_text("LOADED = True\n")
    (tmp_path / "broken_of_test.py").write_text("import no_such_module_of_test\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if "_of_test" in name]:
        del sys.modules[name]


@pytest.mark.usefixtures("packages")
def test_modules_are_found_when_a_worker_starts(app: Umbel) -> None:
    app.autodiscover_tasks(["one_of_test", "two_of_test"])
    app.autodiscover_tasks(lambda: ["one_of_test"], related_name="jobs")
    assert "one_of_test" not in sys.modules
    app.import_default_modules()
    assert {"one_of_test.tasks", "one_of_test.jobs"} <= sys.modules.keys()


@pytest.mark.usefixtures("packages")
def test_at_once_if_asked_and_by_settings(app: Umbel) -> None:
    app.autodiscover_tasks(["one_of_test"], force=True)
    assert "one_of_test.tasks" in sys.modules
    app.conf.imports = ["one_of_test.jobs"]
    app.conf.include = ["two_of_test"]
    app.import_default_modules()
    assert {"one_of_test.jobs", "two_of_test"} <= sys.modules.keys()


@pytest.mark.usefixtures("packages")
def test_an_error_in_a_found_module_is_told(app: Umbel) -> None:
    app.autodiscover_tasks(["broken_of_test"], related_name=None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_test"):
        app.import_default_modules()


def test_finalizing_annotates_tasks_and_tells_once(app: Umbel) -> None:
    app.conf.task_annotations = [
        {"*": {"max_retries": 9}, "a": {"rate_limit": "1/s", "queue": "q"}}
    ]
    told: list[str] = []

    @app.task(name="a", rate_limit="5/s")
    def a() -> None: ...

    a.delay()
    app.on_after_configure.connect(lambda **_: told.append("configured"), weak=False)
    app.on_after_finalize.connect(lambda **_: told.append("finalized"), weak=False)
    app.finalize()
    app.finalize()
    a.delay()
    assert told == ["configured", "finalized"]
    assert (a.rate_limit, a.max_retries) == ("1/s", 9)
    assert len(sent.messages(app, "q")) == 2


def test_annotations_count_where_a_task_is_called_or_run(app: Umbel) -> None:
    @app.task(name="a")
    def a() -> None: ...

    app.conf.task_annotations = {"a": {"queue": "q", "time_limit": 7}}
    a.delay()
    app.conf.task_annotations = {"a": {"queue": "r"}}
    app.send_task("a")
    assert [len(sent.messages(app, name)) for name in ("celery", "q", "r")] == [0, 1, 1]
    app.conf.task_annotations = {"a": {"time_limit": 5}}
    assert a.bound_task().time_limit == 5


# --- sending by name


def test_a_task_that_is_not_here(app: Umbel) -> None:
    result = app.send_task("else.where", (1,), {"y": 2}, countdown=0, queue="q")
    assert isinstance(result, AsyncResult)
    (message,) = sent.messages(app, "q")
    assert message.id == result.id
    assert message.headers["task"] == "else.where"
    assert message.headers["ignore_result"] is None  # the worker knows
    with pytest.raises(TypeError, match="did you mean 'countdown'"):
        app.send_task("else.where", countdwn=1)  # type: ignore[call-arg]


def test_many_names(app: Umbel) -> None:
    for number in range(1100):
        assert app.call_for(f"task.{number}") is app.call_for(f"task.{number}")


def test_what_follows_from_a_request(app: Umbel) -> None:
    @app.task(name="next", queue="q")
    def following(x: int, y: int) -> None: ...

    request = Request(
        id="id", task="t", root_id="root", reply_to="me", stamped_headers=["s"], stamps={"s": 1}
    )
    options = {"task_id": "given", "chain": [{"task": "last"}]}
    message = app.follow_up(Call("next", (1, 2), {}, options), request)
    app.publisher.publish([message])  # what it needs is declared
    found = sent.request(app, "q")
    assert (found.id, found.args, found.root_id, found.parent_id) == ("given", [1, 2], "root", "id")
    assert (found.reply_to, found.stamps, found.chain) == ("me", {"s": 1}, [{"task": "last"}])


# --- configuration


def test_arguments_are_settings() -> None:
    app = Umbel(
        "a",
        "memory://",
        backend="memory://b",
        include=["m"],
        timezone="Europe/Rome",
        config_source={"task_track_started": True, "timezone": "UTC"},
        set_as_current=False,
    )
    conf = app.conf
    assert (conf.broker_url, conf.result_backend, conf.include) == (
        "memory://",
        "memory://b",
        ("m",),
    )
    assert (conf.task_track_started, conf.timezone) == (True, "Europe/Rome")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'timezone'"):
        Umbel("a", timzone="UTC")


def test_a_module_named_by_a_variable(
    app: Umbel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings_of_test.py").write_text("task_default_queue = 'from_module'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SETTINGS_OF_TEST", "settings_of_test")
    assert app.config_from_envvar("SETTINGS_OF_TEST")
    assert app.conf.task_default_queue == "from_module"
    assert not app.config_from_envvar("NO_SUCH_VARIABLE_OF_TEST", silent=True)
    with pytest.raises(ImproperlyConfigured, match="NO_SUCH_VARIABLE_OF_TEST is not set"):
        app.config_from_envvar("NO_SUCH_VARIABLE_OF_TEST")
    app.config_from_object("no_such_module_of_test", silent=True)


def test_the_environment_names_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_BROKER_URL", "memory://environment")
    app = Umbel("a", "memory://program", set_as_current=False)
    assert app.servers().broker.display_url == "memory://environment"


def test_defaults_are_weaker_than_anything(app: Umbel) -> None:
    app.config_from_object({"task_track_started": True})
    app.add_defaults({"task_track_started": False, "worker_concurrency": 3})
    assert (app.conf.task_track_started, app.conf.worker_concurrency) == (True, 3)


# --- servers


def test_results_are_on_the_brokers_server_unless_said_otherwise(app: Umbel) -> None:
    servers = app.servers()
    assert servers.results is servers.broker.results
    assert servers.committer is servers.broker.committer
    assert servers.store is None
    assert app.servers() is servers

    app.conf.result_backend = "memory://elsewhere"
    changed = app.servers()
    assert changed.results is not changed.broker.results
    assert isinstance(changed.committer, OrderedCommit)


def test_servers_are_opened_once_by_many_threads(app: Umbel) -> None:
    barrier = threading.Barrier(8)
    found: list[Any] = []

    def open_them() -> None:
        barrier.wait()
        found.append(app.servers())

    threads = [threading.Thread(target=open_them) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1


def test_closing_is_not_the_end(app: Umbel) -> None:
    @app.task(name="a")
    def a() -> None: ...

    a.delay()
    app.close()
    app.close()
    a.delay()
    assert len(sent.messages(app)) == 2


def test_an_unknown_broker() -> None:
    app = Umbel("a", "carrier-pigeon://loft", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="carrier-pigeon"):
        app.servers()


# --- what is current


def test_the_application_made_last_is_current(app: Umbel) -> None:
    assert current_app() is app
    Umbel("quiet", "memory://", set_as_current=False)
    assert current_app() is app
    other = Umbel("other", "memory://")
    assert current_app() is other


def test_the_current_task(app: Umbel) -> None:
    @app.task(name="a")
    def a() -> None: ...

    assert current_task() is None
    token = current_request.set(Request(id="i", task="a"))
    try:
        assert current_task() is app.current_task is a
    finally:
        current_request.reset(token)


def test_due_times_are_counted_by_the_brokers_clock(request: pytest.FixtureRequest) -> None:
    clock = FakeClock()
    clock.advance(1e9)  # its monotonic time is beyond every deadline by the machine's
    url = f"memory://{request.node.name}"
    app = Umbel("later", url, broker_transport_options={"clock": clock})
    app.send_task("job", countdown=60, expires=90)
    assert sent.messages(app) == []
    clock.advance(60)
    (message,) = sent.messages(app)
    assert (message.not_before, message.expires_at, message.sent_at) == (
        START + 1e9 + 60,
        START + 1e9 + 90,
        START + 1e9,
    )


def test_the_time_of_the_application() -> None:
    app = Umbel("times", "memory://times", timezone="Asia/Tokyo", set_as_current=False)
    assert str(app.timezone) == "Asia/Tokyo"
    assert app.now().tzinfo is app.timezone
    app.conf.timezone = None
    assert app.timezone is dt.UTC
    app.conf.enable_utc = False
    assert app.timezone.utcoffset(app.now()) == app.now().utcoffset()


def test_states_can_be_compared_by_how_far_on_they_are() -> None:
    order = [states.PENDING, states.STARTED, "PROGRESS", states.FAILURE, states.SUCCESS]
    assert sorted(order, key=states.precedence, reverse=True) == order
