"""The node: what others lost is given back in time."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from umbel import servers
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import Server
from umbel.topology import Queue, Topology
from umbel.worker.board import Board
from umbel.worker.node import LOOK, Node, NodePlan, taken_for


@pytest.mark.parametrize("lease", [0.5, 3.0, 15.0, 600.0])
def test_a_lease_is_over_early_enough_to_be_noticed_in_time(lease: float) -> None:
    pause = lease - taken_for(lease)
    assert 0 < pause <= 2 * LOOK
    assert taken_for(lease) > 2 * lease / 3  # it is renewed after a third


@contextmanager
def running(server: Server, *, lease: float) -> Generator[None]:
    plan = NodePlan("node@host", Board(1, entries=1), lease, {})
    node = Node(plan, transport=server.transport, ledger=server.ledger)
    thread = threading.Thread(target=node.run, args=(lambda: True, None))
    thread.start()
    try:
        yield
    finally:
        node.stop()
        thread.join()


def test_what_a_dead_worker_held_comes_back_though_nothing_else_is_due() -> None:
    server = servers.open(f"memory://{new_id()}")
    server.transport.declare(Topology(queues=(Queue("q"),)))
    with running(server, lease=600.0):
        # Given a consumer that takes a message, and is never heard of again
        server.transport.publish([Message(new_id(), b"", {"task": "t"}, "q")], deadline=math.inf)
        gone = server.transport.consume(["q"], consumer_id="gone", lease=0.5)
        assert gone.receive(1, timeout=30)
        # When its lease has ended, then another gets the message
        other = server.transport.consume(["q"], consumer_id="other", lease=600.0)
        assert other.receive(1, timeout=30)
