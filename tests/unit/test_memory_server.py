"""What is the memory server's own; what it shares with the others is in tests/contract."""

from __future__ import annotations

import os

import pytest

from tests.budget.counting import python_calls
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import TransportError
from umbel.ids import new_id
from umbel.message import Effects, Message
from umbel.servers.memory.bell import Bell
from umbel.servers.seams import Server
from umbel.testing.clock import FakeClock
from umbel.topology import Queue, Topology

#: Python-level calls of one publish; the base of the budget of ``delay()``.
PUBLISH_CALLS = 6


def opened(name: str = "", **options: object) -> Server:
    server = servers.open(f"memory://{name or new_id()}", options)
    server.transport.declare(Topology(queues=(Queue("q"),)))
    return server


def publish(server: Server, task_id: str = "a") -> None:
    deadline = SYSTEM_CLOCK.monotonic() + 5.0
    server.transport.publish([Message(task_id, b"", {}, "q")], deadline=deadline)


def test_a_publish_is_few_python_calls() -> None:
    server = opened()
    messages = [Message("a", b"", {}, "q")]
    deadline = SYSTEM_CLOCK.monotonic() + 5.0
    calls = python_calls(lambda: server.transport.publish(messages, deadline=deadline))
    assert len(calls) - 1 <= PUBLISH_CALLS, calls  # the lambda is one


def test_one_name_is_one_server() -> None:
    name = new_id()
    publish(opened(name))
    assert opened(name).transport.depth(["q"])["q"].ready == 1
    assert opened().transport.depth(["q"])["q"].ready == 0


def test_closing_keeps_what_is_stored() -> None:
    name = new_id()
    server = opened(name)
    publish(server)
    server.close()
    assert opened(name).transport.depth(["q"])["q"].ready == 1


def test_a_forked_child_begins_with_nothing_and_the_parent_keeps_all() -> None:
    server = opened()
    publish(server)
    consumer = server.transport.consume(["q"], consumer_id="c", lease=60.0)
    (held,) = consumer.receive(1, 0.0)
    pid = os.fork()
    if pid == 0:
        empty = server.transport.queues() == [] and consumer.receive(1, 0.0) == []
        stale = server.committer.commit([Effects(held)]).stale == (held,)
        consumer.close()
        os._exit(0 if empty and stale else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert server.committer.commit([Effects(held)]).stale == ()


def test_a_receive_ends_even_if_its_clock_stands_still() -> None:
    server = opened(clock=FakeClock())
    consumer = server.transport.consume(["q"], consumer_id="c", lease=60.0)
    watch = server.results.watch()
    assert consumer.receive(1, 0.05) == []
    assert watch.receive(0.05) == []


def test_a_closed_session_receives_no_more() -> None:
    consumer = opened().transport.consume(["q"], consumer_id="c", lease=60.0)
    consumer.close()
    with pytest.raises(TransportError, match="closed"):
        consumer.receive(1, 0.0)


def test_a_bell_rung_before_the_wait_is_heard_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(0.0)
    assert not bell.wait(0.0)
