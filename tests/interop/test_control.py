"""Remote control between umbel and a real Celery: ping and revoke, both ways, on both brokers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
import redis

from tests.interop.fleet import PATIENCE, Fleet, celery_client, new_fleet, umbel_client, until
from umbel.exceptions import TaskRevokedError
from umbel.wire.control import EXCHANGE

celery: Any = import_module("celery")
import_module("celery.exceptions")


OURS, THEIRS = f"umbel@{platform.node()}", f"celery@{platform.node()}"
PONG = {"ok": "pong"}


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def fleet(
    request: pytest.FixtureRequest,
    new_redis_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    """One worker of each kind, each with a queue of its own; results, and the ledger, on Redis."""
    results = new_redis_url()
    on_redis = request.param == "redis"
    url = results if on_redis else request.getfixturevalue("new_rabbitmq_url")()
    fleet = new_fleet(url, tmp_path_factory.mktemp("fleet"), results=results)
    with (
        fleet.worker("celery", "-c", "1", "-Q", "theirs"),
        fleet.worker("umbel", "-c", "1", "-Q", "ours"),
    ):
        with umbel_client(fleet.url, fleet.backend) as app:  # a worker hears soon after it works
            until(lambda: len(pinged(app, timeout=1.0)) == 2)
        yield fleet


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    return tmp_path / "begun"


def pinged(app: Any, **options: Any) -> dict[str, Any]:
    expected = len(options.get("destination", (OURS, THEIRS)))
    answers = app.control.ping(**{"timeout": PATIENCE, "limit": expected, **options})
    return {name: said for answer in answers for name, said in answer.items()}


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_workers_of_both_kinds_answer_a_ping(fleet: Fleet, client: Any) -> None:
    with client(fleet.url, fleet.backend) as app:
        assert pinged(app) == {OURS: PONG, THEIRS: PONG}
        assert pinged(app, destination=[OURS]) == {OURS: PONG}
        assert pinged(app, destination=[THEIRS]) == {THEIRS: PONG}


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_a_fleet_may_have_an_exchange_for_commands_of_its_own(
    fleet: Fleet, apart: str, client: Any
) -> None:
    with client(fleet.url, fleet.backend) as app:
        app.conf.control_exchange = "apart"
        # A worker hears soon after it works
        until(lambda: pinged(app, limit=1, timeout=1.0) == {apart: PONG})
    with client(fleet.url, fleet.backend) as app:
        assert pinged(app).keys() == {OURS, THEIRS}


@pytest.fixture(scope="module")
def apart(fleet: Fleet) -> Iterator[str]:
    """A worker that hears other commands than the rest."""
    options = ("-n", "apart@%h", "-c", "1", "-Q", "apart", "--", "control_exchange=apart")
    with fleet.worker("umbel", *options):
        yield f"apart@{platform.node()}"


def test_patterns_choose_nodes(fleet: Fleet) -> None:
    with celery_client(fleet.url, fleet.backend) as app:
        for matcher, pattern in (("glob", "umbel@*"), ("pcre", "umb.l@")):
            options = {"pattern": pattern, "matcher": matcher, "reply": True}
            options |= {"timeout": PATIENCE, "limit": 1}
            assert app.control.broadcast("ping", **options) == [{OURS: PONG}]


@pytest.mark.parametrize("client", [umbel_client, celery_client])
@pytest.mark.parametrize("queue", ["ours", "theirs"])
def test_what_waits_can_be_revoked(fleet: Fleet, client: Any, queue: str) -> None:
    with client(fleet.url, fleet.backend) as app:
        result = app.send_task("fleet.who", queue=queue, countdown=1.0)
        app.control.revoke(result.id)
        with pytest.raises((TaskRevokedError, celery.exceptions.TaskRevokedError)):
            result.get(timeout=PATIENCE)


@pytest.mark.parametrize("client", [umbel_client, celery_client])
@pytest.mark.parametrize("queue", ["ours", "theirs"])
def test_what_runs_can_be_terminated(fleet: Fleet, client: Any, queue: str, begun: Path) -> None:
    with client(fleet.url, fleet.backend) as app:
        result = app.send_task("fleet.sleep", (60, str(begun)), queue=queue)
        until(begun.exists)
        app.control.revoke(result.id, terminate=True, signal="SIGKILL")
        with pytest.raises((TaskRevokedError, celery.exceptions.TaskRevokedError)):
            result.get(timeout=PATIENCE)
        # And the worker goes on
        assert app.send_task("fleet.add", (1, 2), queue=queue).get(timeout=PATIENCE) == 3


def test_celery_is_told_what_was_done(fleet: Fleet) -> None:
    with celery_client(fleet.url, fleet.backend) as app:
        options = {"destination": [OURS], "reply": True, "timeout": PATIENCE}
        (flagged,) = app.control.revoke("some-id", **options)
        assert flagged == {OURS: {"ok": "tasks {'some-id'} flagged as revoked"}}
        (failed,) = app.control.revoke("some-id", terminate=True, signal="NONSENSE", **options)
        assert "NONSENSE" in failed[OURS]["error"]


def test_what_is_not_known_is_ignored(fleet: Fleet) -> None:
    with celery_client(fleet.url, fleet.backend) as app:
        say_nonsense(fleet)
        asked = {"destination": [OURS], "reply": True, "timeout": 0.5}
        assert not app.control.broadcast("no_such_command", **asked)
        assert pinged(app, destination=[OURS]) == {OURS: PONG}


def test_nothing_of_a_mailbox_is_left(fleet: Fleet, rabbitmqctl: Callable[..., str]) -> None:
    with umbel_client(fleet.url, fleet.backend) as app:
        before = mailboxes(fleet, rabbitmqctl)
        pinged(app, destination=[THEIRS])
        assert mailboxes(fleet, rabbitmqctl) == before


def say_nonsense(fleet: Fleet) -> None:
    if fleet.url.startswith("redis"):
        with redis.Redis.from_url(fleet.url) as plain:
            plain.publish(f"/{fleet.url.rpartition('/')[2]}.{EXCHANGE}", b"no json")
        return
    with closing(pika.BlockingConnection(pika.URLParameters(fleet.url))) as connection:
        connection.channel().basic_publish(EXCHANGE, "", b"no json")


def mailboxes(fleet: Fleet, rabbitmqctl: Callable[..., str]) -> Any:
    """Return what there is of mailboxes on the server."""
    if fleet.url.startswith("redis"):
        with redis.Redis.from_url(fleet.url) as plain:
            return plain.keys("*.reply.*"), plain.smembers("_kombu.binding.reply.celery.pidbox")
    vhost = urlsplit(fleet.url).path[1:]
    names = rabbitmqctl("list_queues", "-p", vhost, "name", "--no-table-headers").split()
    return sorted(name for name in names if ".reply." in name)
