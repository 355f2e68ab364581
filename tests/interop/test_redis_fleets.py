"""umbel and a real Celery on one Redis, in every mixture."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis

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
    until,
)
from umbel import Broadcast
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TaskRevokedError
from umbel.ids import new_id

celery: Any = import_module("celery")
import_module("celery.exceptions")


def begin(
    new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, settings: str = "{}"
) -> Fleet:
    return new_fleet(new_redis_url(), tmp_path_factory.mktemp("fleet"), settings)


@pytest.fixture(scope="module")
def theirs(
    new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet of one worker of Celery's."""
    fleet = begin(new_redis_url, tmp_path_factory)
    with fleet.worker("celery", "-c", "1"):
        yield fleet


@pytest.fixture(scope="module")
def ours(
    new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet of one worker of umbel's."""
    fleet = begin(new_redis_url, tmp_path_factory)
    with fleet.worker("umbel", "-c", "1"):
        yield fleet


@pytest.fixture(scope="module")
def both(
    new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet of one worker of each; beside the common queue each has its own."""
    fleet = begin(new_redis_url, tmp_path_factory)
    with (
        fleet.worker("celery", "-c", "1", "-Q", "celery,theirs"),
        fleet.worker("umbel", "-c", "1", "-Q", "celery,ours"),
    ):
        yield fleet


@pytest.fixture
def admin() -> Iterator[Callable[[Fleet], Any]]:
    """A plain client of a fleet's database."""
    clients: list[Any] = []

    def open_client(fleet: Fleet) -> Any:
        clients.append(redis.Redis.from_url(fleet.url))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


# --- our client, their workers alone


def test_our_client_is_served_by_celery(theirs: Fleet) -> None:
    with umbel_client(theirs.url) as app:
        assert app.send_task("fleet.add", (1, 2)).get(timeout=PATIENCE) == 3
        with pytest.raises(LookupError, match="as asked"):
            app.send_task("fleet.fail", ("as asked",)).get(timeout=PATIENCE)
        assert app.send_task("fleet.insist", (2,)).get(timeout=PATIENCE) == [2, "celery"]
        results = [app.send_task("fleet.add", (n, n)) for n in range(50)]
        assert [each.get(timeout=PATIENCE) for each in results] == [2 * n for n in range(50)]


def test_our_chains_and_groups_run_on_celery(theirs: Fleet) -> None:
    with umbel_client(theirs.url) as app:
        assert chained(app) == 15
        assert grouped(app) == [0, 2, 4]


def test_a_delay_of_ours_goes_out_at_once_to_celerys_workers(
    theirs: Fleet, admin: Callable[[Fleet], Any]
) -> None:
    with umbel_client(theirs.url) as app:
        began = SYSTEM_CLOCK.monotonic()
        result = app.send_task("fleet.add", (3, 4), countdown=1.5)
        assert not admin(theirs).keys("umbel:delayed:*")
        assert result.get(timeout=PATIENCE) == 7
        assert SYSTEM_CLOCK.monotonic() - began >= 1.3


# --- their client, our workers alone


def test_celerys_client_is_served_by_us(ours: Fleet) -> None:
    with celery_client(ours.url) as app:
        assert app.send_task("fleet.add", (1, 2)).get(timeout=PATIENCE) == 3
        with pytest.raises(LookupError, match="as asked"):
            app.send_task("fleet.fail", ("as asked",)).get(timeout=PATIENCE)
        assert app.send_task("fleet.insist", (2,)).get(timeout=PATIENCE) == [2, "umbel"]
        results = [app.send_task("fleet.add", (n, n)) for n in range(50)]
        assert [each.get(timeout=PATIENCE) for each in results] == [2 * n for n in range(50)]


def test_celerys_chains_and_groups_run_on_us(ours: Fleet) -> None:
    with celery_client(ours.url) as app:
        assert chained(app) == 15
        assert grouped(app) == [0, 2, 4]


def test_protocol_1_is_read(ours: Fleet) -> None:
    with celery_client(ours.url, task_protocol=1) as app:
        assert app.send_task("fleet.add", (1,), {"y": 2}).get(timeout=PATIENCE) == 3


def test_an_eta_from_celery_waits_in_the_server(ours: Fleet, admin: Callable[[Fleet], Any]) -> None:
    database = admin(ours)
    with celery_client(ours.url) as app:
        began = SYSTEM_CLOCK.monotonic()
        result = app.send_task("fleet.add", (3, 4), countdown=1.5)
        until(lambda: database.zcard("umbel:delayed:celery"))
        assert not database.hlen("unacked")
        assert result.get(timeout=PATIENCE) == 7
        assert SYSTEM_CLOCK.monotonic() - began >= 1.3


def test_what_celery_sent_too_late_is_revoked(ours: Fleet) -> None:
    with celery_client(ours.url) as app:
        result = app.send_task("fleet.add", (1, 2), expires=-1)
        with pytest.raises(celery.exceptions.TaskRevokedError):
            result.get(timeout=PATIENCE)


def test_a_result_may_be_read_by_the_other_kind(ours: Fleet) -> None:
    with celery_client(ours.url) as app, umbel_client(ours.url) as other:
        sent = app.send_task("fleet.add", (5, 6))
        assert other.AsyncResult(sent.id).get(timeout=PATIENCE) == 11
        again = other.send_task("fleet.add", (7, 8))
        assert app.AsyncResult(again.id).get(timeout=PATIENCE) == 15
        late = other.send_task("fleet.add", (1, 1), expires=-1)
        with pytest.raises(celery.exceptions.TaskRevokedError):
            app.AsyncResult(late.id).get(timeout=PATIENCE)
        with pytest.raises(TaskRevokedError):
            late.get(timeout=PATIENCE)


POISON: dict[str, dict[str, Any]] = {
    "no content type": {"content-type": None},
    "no id": {"headers": {"task": "fleet.add"}},
    "a body of two": {"body": "[[1, 2], {}]", "properties": {"body_encoding": "utf-8"}},
    "no properties": {"properties": None},
    "no headers": {"headers": None},
    "a list as keyword arguments": {
        "body": "[[1, 2], [], {}]",
        "properties": {"body_encoding": "utf-8"},
    },
    "a number as eta": {"headers": {"task": "fleet.add", "id": "x", "eta": 5}},
}


def test_what_stops_celerys_workers_does_not_stop_ours(
    ours: Fleet, admin: Callable[[Fleet], Any]
) -> None:
    database = admin(ours)
    for changes in POISON.values():
        database.lpush("celery", json.dumps({**envelope("fleet.add", new_id()), **changes}))
    for element in ("{}", "no json", "[]", "7", ""):
        database.lpush("celery", element)
    with umbel_client(ours.url) as app:
        assert app.send_task("fleet.add", (1, 2)).get(timeout=PATIENCE) == 3
        ledger = app.servers().ledger
        assert ledger is not None
        until(lambda: len(ledger.dead_letters()) >= len(POISON) + 4)
    assert not database.exists("celery")


def envelope(task: str, task_id: str) -> dict[str, Any]:
    """Return the smallest message that a worker of Celery's executes."""
    return {
        "body": base64.b64encode(b"[[1, 2], {}, {}]").decode(),
        "content-type": "application/json",
        "headers": {"task": task, "id": task_id},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": new_id(),
            "delivery_info": {"exchange": "", "routing_key": "celery"},
        },
    }


def test_the_smallest_message_runs(ours: Fleet, admin: Callable[[Fleet], Any]) -> None:
    task_id = new_id()
    admin(ours).lpush("celery", json.dumps(envelope("fleet.add", task_id)))
    with umbel_client(ours.url) as app:
        assert app.AsyncResult(task_id).get(timeout=PATIENCE) == 3


# --- workers of both kinds


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_both_kinds_of_worker_share_a_queue(both: Fleet, client: Any) -> None:
    with client(both.url) as app:
        results = [app.send_task("fleet.who") for _ in range(300)]
        told = [each.get(timeout=PATIENCE) for each in results]
        assert set(told) == {"umbel", "celery"}


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_chains_cross_from_one_kind_to_the_other_and_back(both: Fleet, client: Any) -> None:
    with client(both.url) as app:
        result = chain(
            app,
            *(
                app.signature("fleet.told", queue=queue)
                for queue in ("ours", "theirs", "ours", "theirs")
            ),
        )
        told = result.get(timeout=PATIENCE)
        assert told == [[[["umbel"], "celery"], "umbel"], "celery"]
        assert result.parent.get(timeout=PATIENCE) == told[0]


@pytest.mark.parametrize("client", [umbel_client, celery_client])
def test_members_of_a_group_run_on_either_kind(both: Fleet, client: Any) -> None:
    with client(both.url) as app:
        queues = ["ours", "theirs"] * 5
        members = [app.signature("fleet.who", queue=each) for each in queues]
        told = group(app, members).get(timeout=PATIENCE)
        assert told == ["umbel", "celery"] * 5


def test_a_broadcast_of_either_kind_reaches_every_worker_once(
    new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    fleet = replace(begin(new_redis_url, tmp_path_factory), news=True)
    kombu: Any = import_module("kombu")
    theirs_news = import_module("kombu.common").Broadcast("news")
    # Its clients do not know by themselves what kind of exchange it is, as its workers do.
    declared = {"declare": [kombu.Exchange("news", "fanout")]}

    def told() -> list[str]:
        return fleet.begun.read_text().split()[::2] if fleet.begun.exists() else []

    with (
        fleet.worker("celery", "-c", "1"),
        fleet.worker("umbel", "-c", "2"),
        fleet.worker("umbel", "-c", "1", "-n", "second@%h"),
        umbel_client(fleet.url, task_queues=[Broadcast("news")]) as ours,
        celery_client(fleet.url, task_queues=[theirs_news]) as theirs,
    ):
        sent: list[tuple[Any, dict[str, Any]]] = [(ours, {}), (theirs, declared)] * 2
        for count, (app, more) in enumerate(sent, start=1):
            arguments = (0, str(fleet.begun))
            app.send_task("fleet.sleep", arguments, queue="news", ignore_result=True, **more)
            until(lambda count=count: len(told()) >= 3 * count, lambda: str(told()))
        assert Counter(told()) == {"celery": len(sent), "umbel": 2 * len(sent)}


# --- what the dead leave


def test_what_a_dead_worker_of_celerys_held_is_run_by_us(
    new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Given a worker of Celery's that dies, with all its processes, while it runs a task
    settings = {"broker_transport_options": {"visibility_timeout": 2}}
    fleet = begin(new_redis_url, tmp_path_factory, json.dumps(settings))
    with umbel_client(fleet.url) as app:
        with fleet.worker("celery", "-c", "1") as worker:
            result = app.send_task("fleet.sleep", (3, str(fleet.begun)))
            until(fleet.begun.exists)
            kill_family(worker.pid)
        # When one of ours starts, then it runs the task, once the visibility timeout has passed
        with fleet.worker("umbel", "-c", "1"):
            assert result.get(timeout=PATIENCE) == "umbel"


def kill_family(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)
