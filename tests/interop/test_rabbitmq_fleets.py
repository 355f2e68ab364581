"""umbel and a real Celery on one RabbitMQ, in every mixture, with rpc and with Redis results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from typing import Any

import pika
import pytest

import umbel
from tests.interop.fleet import (
    PATIENCE,
    Fleet,
    celery_client,
    chain,
    chained,
    group,
    grouped,
    new_fleet,
    umbel_client,
)
from umbel import Umbel
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ImproperlyConfigured, TaskRevokedError
from umbel.wire.names import DELAYED_EXCHANGE

TheirRevokedError: Any = import_module("celery.exceptions").TaskRevokedError


BeginFleet = Callable[..., Fleet]
#: A fleet whose queues are quorum queues on topic exchanges, where Celery delays in the server.
QUORUM = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "worker_detect_quorum_queues": True,
}


@pytest.fixture(scope="module", params=["rpc", "redis"])
def begin(
    request: pytest.FixtureRequest,
    new_rabbitmq_url: Callable[[], str],
    new_redis_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> BeginFleet:
    """Begin fleets, with results of either kind."""

    def begin(settings: dict[str, Any] | None = None) -> Fleet:
        results = "rpc://" if request.param == "rpc" else new_redis_url()
        folder = tmp_path_factory.mktemp("fleet")
        return new_fleet(new_rabbitmq_url(), folder, json.dumps(settings or {}), results=results)

    return begin


@pytest.fixture(scope="module")
def theirs(begin: BeginFleet) -> Iterator[Fleet]:
    """A fleet of one worker of Celery's."""
    fleet = begin()
    with fleet.worker("celery", "-c", "1"):
        yield fleet


@pytest.fixture(scope="module")
def ours(begin: BeginFleet) -> Iterator[Fleet]:
    """A fleet of one worker of umbel's."""
    fleet = begin()
    with fleet.worker("umbel", "-c", "1"):
        yield fleet


@pytest.fixture(scope="module")
def both(begin: BeginFleet) -> Iterator[Fleet]:
    """A fleet of one worker of each; beside the common queue each has its own."""
    fleet = begin()
    with (
        fleet.worker("celery", "-c", "1", "-Q", "celery,theirs"),
        fleet.worker("umbel", "-c", "1", "-Q", "celery,ours"),
    ):
        yield fleet


# --- one kind of client, the other kind of worker


def is_served(app: Any, by: str) -> None:
    assert app.send_task("fleet.add", (1, 2)).get(timeout=PATIENCE) == 3
    with pytest.raises(LookupError, match="as asked"):
        app.send_task("fleet.fail", ("as asked",)).get(timeout=PATIENCE)
    assert app.send_task("fleet.insist", (2,)).get(timeout=PATIENCE) == [2, by]
    results = [app.send_task("fleet.add", (n, n)) for n in range(50)]
    assert [each.get(timeout=PATIENCE) for each in results] == [2 * n for n in range(50)]
    assert chained(app) == 15
    assert grouped(app) == [0, 2, 4]
    began = SYSTEM_CLOCK.monotonic()
    assert app.send_task("fleet.add", (3, 4), countdown=1.5).get(timeout=PATIENCE) == 7
    assert SYSTEM_CLOCK.monotonic() - began >= 1.3
    limits = {"soft_time_limit": 10.5, "time_limit": 20.5}
    assert app.send_task("fleet.add", (3, 4), **limits).get(timeout=PATIENCE) == 7
    late = app.send_task("fleet.add", (1, 2), expires=0.3, countdown=0.6)
    with pytest.raises((TaskRevokedError, TheirRevokedError), match="expired"):
        late.get(timeout=PATIENCE)


def test_our_client_is_served_by_celery(theirs: Fleet) -> None:
    with umbel_client(theirs.url, theirs.backend) as app:
        is_served(app, "celery")


def test_celerys_client_is_served_by_us(ours: Fleet) -> None:
    with celery_client(ours.url, ours.backend) as app:
        is_served(app, "umbel")


def test_protocol_1_is_read(ours: Fleet) -> None:
    with celery_client(ours.url, ours.backend, task_protocol=1) as app:
        assert app.send_task("fleet.add", (1,), {"y": 2}).get(timeout=PATIENCE) == 3


POISON: dict[str, dict[str, Any]] = {
    "no content type": {"content_type": None},
    "another content type": {"content_type": "application/x-python-serialize"},
    "no id": {"headers": {"task": "fleet.add"}},
    "no headers": {"headers": None},
    "no task": {"headers": {"id": "poison"}},
    "a number as eta": {"headers": {"task": "fleet.add", "id": "poison", "eta": 5}},
    "a huge number": {"headers": {"task": "fleet.add", "id": "poison", "retries": 2**60}},
    "a body of two": {"body": b"[[1, 2], {}]"},
    "a list as keyword arguments": {"body": b"[[1, 2], [], {}]"},
    "no body": {"body": b""},
    "no json": {"body": b"\xff\x00"},
}


def test_what_stops_celerys_workers_does_not_stop_ours(ours: Fleet) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(ours.url))) as connection:
        channel = connection.channel()
        for changes in POISON.values():
            fields: dict[str, Any] = {
                "content_type": "application/json",
                "content_encoding": "utf-8",
                "headers": {"task": "fleet.add", "id": "poison"},
                **changes,
            }
            body = fields.pop("body", b"[[1, 2], {}, {}]")
            channel.basic_publish("", "celery", body, pika.BasicProperties(**fields))
        with umbel_client(ours.url, ours.backend) as app:
            assert app.send_task("fleet.add", (1, 2)).get(timeout=PATIENCE) == 3
        assert channel.queue_declare("celery", passive=True).method.message_count == 0


# --- workers of both kinds


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_both_kinds_of_worker_share_a_queue(both: Fleet, client: Any) -> None:
    with client(both.url, both.backend) as app:
        results = [app.send_task("fleet.who") for _ in range(300)]
        told = [each.get(timeout=PATIENCE) for each in results]
        assert set(told) == {"umbel", "celery"}


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_chains_cross_from_one_kind_to_the_other_and_back(both: Fleet, client: Any) -> None:
    queues = ("ours", "theirs", "ours", "theirs")
    with client(both.url, both.backend) as app:
        result = chain(app, *(app.signature("fleet.told", queue=queue) for queue in queues))
        told = result.get(timeout=PATIENCE)
        assert told == [[[["umbel"], "celery"], "umbel"], "celery"]
        assert result.parent.get(timeout=PATIENCE) == told[0]


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_members_of_a_group_run_on_either_kind(both: Fleet, client: Any) -> None:
    with client(both.url, both.backend) as app:
        queues = ["ours", "theirs"] * 5
        members = [app.signature("fleet.who", queue=each) for each in queues]
        assert group(app, members).get(timeout=PATIENCE) == ["umbel", "celery"] * 5


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_chords_cross_where_results_are_kept(both: Fleet, client: Any) -> None:
    if both.backend == "rpc://":
        with umbel_client(both.url) as app, pytest.raises(ImproperlyConfigured, match="chord"):
            umbel.chord([app.signature("fleet.who")], app.signature("fleet.total")).apply_async()
        return
    with client(both.url, both.backend) as app:
        library = import_module("umbel" if isinstance(app, Umbel) else "celery")
        queues = ["ours", "theirs"] * 4
        header = [app.signature("fleet.add", (n, n), queue=each) for n, each in enumerate(queues)]
        for queue in ("ours", "theirs"):
            body = app.signature("fleet.total", queue=queue)
            assert library.chord(header, body).apply_async().get(timeout=PATIENCE) == 56


# --- queues of other kinds


def test_queues_are_declared_alike(begin: BeginFleet) -> None:
    # Given queues with priorities, made when first used
    fleet = begin({"task_queue_max_priority": 5, "worker_direct": True})
    # When workers and clients of both kinds come, in either order
    for first, second in (("celery", "umbel"), ("umbel", "celery")):
        queue = f"first-{first}"
        with fleet.worker(first, "-c", "1", "-Q", queue):
            assert send_all(fleet, queue) == {first}
        with fleet.worker(second, "-c", "1", "-Q", queue):
            # Then none of them finds what it cannot accept
            assert send_all(fleet, queue) == {second}


def send_all(fleet: Fleet, queue: str) -> set[str]:
    told: set[str] = set()
    for client in (umbel_client, celery_client):
        with client(fleet.url, fleet.backend, task_queue_max_priority=5) as app:
            sent = [app.send_task("fleet.who", queue=queue, priority=n) for n in (0, 5, 9)]
            told.update(each.get(timeout=PATIENCE) for each in sent)
    return told


@pytest.mark.parametrize("side", ["umbel", "celery"])
def test_quorum_queues_are_shared_and_delay_in_the_server(begin: BeginFleet, side: str) -> None:
    # Given a fleet on a quorum queue, whose delays a worker of Celery's has declared
    fleet = begin(QUORUM)
    with fleet.worker("celery", "-c", "1"):
        assert delayed(fleet) == ["celery", "celery"]
    # When clients of both kinds send what is due later, then either kind of worker serves them
    with fleet.worker(side, "-c", "1"):
        assert delayed(fleet) == [side, side]


def delayed(fleet: Fleet) -> list[str]:
    told = []
    for client in (umbel_client, celery_client):
        with client(fleet.url, fleet.backend, **QUORUM) as app:
            began = SYSTEM_CLOCK.monotonic()
            told.append(app.send_task("fleet.who", countdown=1.6).get(timeout=PATIENCE))
            assert SYSTEM_CLOCK.monotonic() - began >= 1.5
    return told


def test_what_celery_delayed_is_understood_and_retried_by_us(begin: BeginFleet) -> None:
    fleet = begin(QUORUM)
    with fleet.worker("celery", "-c", "1"):
        pass  # it has declared what delays
    with (
        fleet.worker("umbel", "-c", "1"),
        celery_client(fleet.url, fleet.backend, **QUORUM) as app,
    ):
        result = app.send_task("fleet.insist", (2,), countdown=1.2)
        assert result.get(timeout=PATIENCE) == [2, "umbel"]
        where = app.send_task("fleet.address", countdown=1.2)
        assert where.get(timeout=PATIENCE) == [DELAYED_EXCHANGE, "celery"]
