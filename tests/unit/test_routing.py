"""Where calls go."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from umbel.config import Config
from umbel.exceptions import ImproperlyConfigured, QueueNotFound
from umbel.routing import Broadcast, Route, Router
from umbel.topology import Exchange, Queue


def router(**settings: Any) -> Router:
    return Router(Config(settings, environ={}, folder="/").current().values)


def place(route: Route) -> tuple[str, str]:
    return route.exchange, route.routing_key


# --- queues


def test_by_default_there_is_one_queue_named_celery() -> None:
    made = router()
    assert made.consumed == ("celery",)
    assert made.queue("celery") == Queue("celery", Exchange("celery"), "celery")
    assert place(made.route({})) == ("", "celery")


def test_a_missing_queue_gets_an_exchange_of_its_own() -> None:
    route = router().route({"queue": "fast"})
    assert place(route) == ("", "fast")
    assert route.topology.queues == (Queue("fast", Exchange("fast"), "fast"),)


def test_unless_that_is_forbidden() -> None:
    made = router(task_create_missing_queues=False, task_queues=[Queue("feeds")])
    assert place(made.route({"queue": "feeds"})) == ("", "feeds")
    with pytest.raises(QueueNotFound, match="did you mean 'feeds'"):
        made.route({"queue": "feed"})


def test_queues_get_the_default_exchange_and_key_where_they_name_none() -> None:
    made = router(
        task_queues=(Queue("a"), Queue("b", Exchange("media", "topic"), "media.#")),
        task_default_queue="a",
        task_default_exchange="tasks",
        task_default_routing_key="task.default",
    )
    assert made.consumed == ("a", "b")
    assert made.queue("a") == Queue("a", Exchange("tasks"), "task.default")
    assert made.queue("b") == Queue("b", Exchange("media", "topic"), "media.#")


def test_queues_as_names_dicts_and_another_librarys_objects() -> None:
    assert router(task_queues=["a", "b"]).consumed == ("a", "b")
    made = router(
        task_queues={"c": {"exchange": "x", "exchange_type": "topic", "routing_key": "k"}}
    )
    assert made.queue("c") == Queue("c", Exchange("x", "topic"), "k")
    foreign = SimpleNamespace(
        name="d",
        exchange=SimpleNamespace(name="e", type="fanout"),
        routing_key="",
        durable=False,
        max_priority=5,
        queue_arguments={"x-expires": 1},
    )
    found = router(task_queues=[foreign], task_default_routing_key="k").queue("d")
    assert found == Queue(
        "d",
        Exchange("e", "fanout"),
        "k",
        durable=False,
        max_priority=5,
        queue_arguments={"x-expires": 1},
    )
    with pytest.raises(ImproperlyConfigured, match="expected a Queue or a name, got 3"):
        router(task_queues=[3])


def test_queue_types_and_priorities() -> None:
    made = router(
        task_default_queue_type="quorum",
        task_create_missing_queue_type="quorum",
        task_queue_max_priority=10,
    )
    for name in ("celery", "other"):
        queue = made.queue(name)
        assert isinstance(queue, Queue)
        assert queue.queue_arguments == {"x-queue-type": "quorum"}
        assert queue.max_priority == 10


# --- exchanges


def test_a_routing_key_alone_means_nothing_on_a_direct_exchange() -> None:
    assert place(router().route({"routing_key": "foo"})) == ("", "celery")


def test_exchange_and_key_are_used_as_given() -> None:
    assert place(router().route({"exchange": "x", "routing_key": "k"})) == ("x", "k")
    assert place(router().route({"exchange": "", "routing_key": "q"})) == ("", "q")


def test_an_exchange_brings_the_queues_that_are_bound_to_it() -> None:
    queue = Queue("a", Exchange("media", "topic"), "media.#")
    route = router(task_queues=[queue]).route({"exchange": "media", "routing_key": "media.x"})
    assert place(route) == ("media", "media.x")
    assert route.topology.queues == (queue,)
    assert route.topology.exchanges == (Exchange("media", "topic"),)


def test_a_topic_queue_is_reached_through_its_exchange() -> None:
    queue = Queue("a", Exchange("media", "topic"), "media.image")
    made = router(task_queues=[queue])
    assert place(made.route({"queue": "a"})) == ("media", "media.image")
    assert place(made.route({"queue": "a", "routing_key": "media.x"})) == ("media", "media.x")
    assert place(router().route({"queue": queue})) == ("media", "media.image")


def test_the_type_of_a_given_exchange_is_declared() -> None:
    route = router().route({"exchange": "x", "exchange_type": "fanout", "routing_key": ""})
    assert route.topology.exchanges == (Exchange("x", "fanout"),)
    given = Exchange("y", "topic")
    assert router().route({"exchange": given}).topology.exchanges == (given,)


def test_a_broadcast_is_a_fanout_exchange_with_a_queue_per_worker() -> None:
    news = Broadcast("news")
    made = router(task_queues=[news])
    assert made.consumed == ("news",)
    assert place(made.route({"queue": "news"})) == ("news", "")
    first, second = news.queue_for("w1"), news.queue_for("w2")
    assert first.name != second.name
    assert first.exchange == second.exchange == Exchange("news", "fanout")
    assert first.auto_delete


# --- task_routes


@pytest.mark.parametrize(
    "routes",
    [
        {"feeds.*": "feeds", "feeds.now": {"queue": "now"}},
        [("feeds.*", {"queue": "feeds"}), ("feeds.now", "now")],
        [{"feeds.now": "now"}, {"feeds.*": "feeds"}],
        {re.compile(r"feeds\..+"): {"queue": "feeds"}, "feeds.now": "now"},
    ],
)
def test_by_name_and_pattern_the_exact_name_first(routes: Any) -> None:
    made = router(task_routes=routes)
    assert made.is_static
    assert made.lookup("feeds.now") == {"queue": "now"}
    assert made.lookup("feeds.later") == {"queue": "feeds"}
    assert made.lookup("other") == {}


def by_size(_name: str, args: Any, *_: Any, **__: Any) -> Any:
    return {"queue": "big", "priority": 3} if len(args) > 2 else None


class ByMethod:
    def route_for_task(self, task: str, *_: Any) -> Any:
        return "method" if task.startswith("m.") else None


def test_by_function_class_and_their_names() -> None:
    made = router(task_routes=(by_size, ByMethod, {"*": "rest"}))
    assert not made.is_static
    assert made.lookup("x", (1, 2, 3)) == {"queue": "big", "priority": 3}
    assert made.lookup("m.x") == {"queue": "method"}
    assert made.lookup("x") == {"queue": "rest"}
    named = router(task_routes=f"{__name__}:by_size")
    assert named.lookup("x", (1, 2, 3))["queue"] == "big"


def test_what_is_no_route() -> None:
    with pytest.raises(ImproperlyConfigured, match="expected a dict"):
        router(task_routes=[3])
