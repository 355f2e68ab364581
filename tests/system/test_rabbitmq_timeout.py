"""Tasks that take longer than the server waits for an acknowledgement (`consumer_timeout`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Server as Node
from tests.servers import rabbitmq_server, rabbitmqctl
from tests.sharing import server_directory
from tests.system.projects import Project
from umbel import Umbel, servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost
from umbel.ids import new_id
from umbel.message import Delivery, Effects, Message
from umbel.servers.rabbitmq import parking
from umbel.servers.seams import Consumer, Server
from umbel.topology import Queue, Topology

#: Seconds that the server waits, and until what must happen fails the test.
TIMEOUT, PATIENCE = 6.0, 60.0

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def node(run_directory: Path) -> Iterator[Node]:
    """A node that looks every half second whether something is held for too long."""
    settings = {"consumer_timeout": int(TIMEOUT * 1000), "channel_tick_interval": 500}
    with rabbitmq_server(server_directory(run_directory)) as node:
        for name, value in settings.items():
            rabbitmqctl(node.environment, "eval", f"application:set_env(rabbit, {name}, {value}).")
        yield node


@pytest.fixture
def open_server(node: Node) -> Iterator[Callable[..., Server]]:
    opened: list[Server] = []

    def open_server(**options: float) -> Server:
        opened.append(servers.open(node.url, {"consumer_timeout": TIMEOUT, **options}))
        return opened[-1]

    yield open_server
    for server in opened:
        server.close()


def consume(server: Server, queue: str) -> Consumer:
    return server.transport.consume([queue], consumer_id=new_id(), lease=60.0)


def held_one(server: Server, queue: str) -> tuple[Consumer, Delivery]:
    """Send a message, and hold it."""
    server.transport.declare(Topology(queues=(Queue(queue),)))
    message = Message(new_id(), b"body", {"own": "header"}, queue, priority=3, reply_to="somebody")
    server.transport.publish([message], deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)
    consumer = consume(server, queue)
    (held,) = consumer.receive(1, timeout=PATIENCE)
    return consumer, held


def run_for(consumer: Consumer, seconds: float) -> None:
    """Let time pass, as a worker does that runs something."""
    deadline = SYSTEM_CLOCK.monotonic() + seconds
    while SYSTEM_CLOCK.monotonic() < deadline:
        assert consumer.receive(0, timeout=0.2) == []


def parked(node: Node) -> list[str]:
    listed = rabbitmqctl(node.environment, "list_queues", "name", "--no-table-headers").split()
    return [name for name in listed if name.startswith("umbel.parked.")]


def test_what_runs_for_longer_is_held_all_the_same(
    node: Node, open_server: Callable[..., Server]
) -> None:
    server, queue = open_server(), new_id()
    consumer, held = held_one(server, queue)
    run_for(consumer, TIMEOUT + 3)
    assert len(parked(node)) == 1
    assert server.committer.commit([Effects(held)]).stale == ()
    assert parked(node) == []
    assert consumer.receive(1, timeout=0.5) == []
    assert server.transport.depth([queue])[queue].ready == 0
    consumer.close()


def test_a_timeout_that_was_not_known_is_learnt_when_it_strikes(
    open_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server, queue = open_server(consumer_timeout=1800.0), new_id()
    consumer, held = held_one(server, queue)
    with caplog.at_level(logging.WARNING), pytest.raises(ConnectionLost, match="timed out"):
        run_for(consumer, PATIENCE)
    # The message comes again, and is held as long as it takes
    (again,) = consumer.receive(1, timeout=PATIENCE)
    assert "consumer_timeout of 6 s" in caplog.text
    assert (again.message, again.redelivered) == (held.message, True)
    assert server.committer.commit([Effects(held)]).stale == (held,)
    run_for(consumer, TIMEOUT + 3)
    assert server.committer.commit([Effects(again)]).stale == ()
    consumer.close()


@pytest.mark.parametrize("end", ["give_back", "close"])
def test_what_is_parked_goes_back_at_once(open_server: Callable[..., Server], end: str) -> None:
    server, queue = open_server(), new_id()
    consumer, held = held_one(server, queue)
    run_for(consumer, TIMEOUT)
    if end == "give_back":
        consumer.give_back([held])
    else:
        consumer.close()
    other = consume(server, queue)
    (again,) = other.receive(1, timeout=PATIENCE)
    assert (again.message, again.redelivered) == (held.message, True)
    other.close()
    consumer.close()


def test_what_a_dead_process_had_parked_comes_back_and_its_late_end_is_stale(
    open_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a parked message whose process renews it no more
    monkeypatch.setattr(parking, "LEASE", 2.0)
    server, queue = open_server(), new_id()
    consumer, held = held_one(server, queue)
    run_for(consumer, TIMEOUT)
    other = consume(open_server(), queue)
    # Then others get it
    (again,) = other.receive(1, timeout=PATIENCE)
    assert (again.message, again.redelivered) == (held.message, True)
    assert server.committer.commit([Effects(held)]).stale == (held,)
    other.close()
    consumer.close()


def test_it_is_renewed(open_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "LEASE", 3.0)
    monkeypatch.setattr(parking, "RENEW", 0.5)
    server, queue = open_server(), new_id()
    consumer, held = held_one(server, queue)
    run_for(consumer, TIMEOUT + 3)
    assert server.committer.commit([Effects(held)]).stale == ()
    assert server.transport.depth([queue])[queue].ready == 0
    consumer.close()


TASKS = """
import time
from umbel import Umbel

app = Umbel("tasks", broker="{broker}", broker_transport_options={{"consumer_timeout": 6}})

@app.task
def long(seconds):
    with open("runs", "a") as runs:
        runs.write("long ")
    time.sleep(seconds)
    return "done"
"""


def test_a_worker_runs_a_long_task_once(node: Node, tmp_path: Path) -> None:
    project = Project(tmp_path, TASKS.format(broker=node.url))
    with (
        project.worker("worker", "-A", "tasks", "-c", "2"),
        Umbel("client", node.url, set_as_current=False) as app,
    ):
        result = app.send_task("tasks.long", (13,))
        assert result.get(timeout=PATIENCE) == "done"
    assert (project.folder / "runs").read_text().split() == ["long"]
