"""Publishing: deadlines, repeats, declarations, sizes. The server is memory://, with faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from umbel import servers
from umbel.exceptions import ConnectionLost, MessageTooLarge, PublishError, Unroutable
from umbel.message import Message
from umbel.publisher import ONCE, Publisher, RetryPolicy
from umbel.routing import Route
from umbel.testing.clock import FakeClock
from umbel.testing.flaky import AFTER, BEFORE, Fault, FlakyServer, Plan, script
from umbel.testing.probe import Probe
from umbel.topology import Queue, Topology

ROUTE = Route("", "q", "q", Topology(queues=(Queue("q"),)), ("q",))


def message(name: str = "m", body: bytes = b"x") -> Message:
    return Message(name, body, {"task": "t", "id": name}, "q")


class Stage:
    """A publisher on a memory server that meets the faults of a plan."""

    def __init__(self, request: pytest.FixtureRequest, plan: Plan, **options: Any) -> None:
        self.clock = FakeClock()
        inner = servers.open(f"memory://{request.node.name}", {"clock": self.clock})
        self.server = FlakyServer(inner, plan)
        self.publisher = Publisher(self.server.transport, clock=self.clock, **options)

    def stored(self) -> int:
        depth = self.server.transport.depth(["q"])
        return depth["q"].ready if "q" in depth else 0


def test_what_is_published_is_stored_and_its_queue_declared(request: Any) -> None:
    stage = Stage(request, script())
    stage.publisher.publish([message("a"), message("b")], [ROUTE])
    assert stage.stored() == 2


def test_a_lost_request_is_repeated_with_back_off(request: Any) -> None:
    stage = Stage(request, script(publish=[BEFORE, BEFORE, BEFORE]))
    before = stage.clock.monotonic()
    with Probe() as probe:
        stage.publisher.publish([message()], [ROUTE])
    assert stage.stored() == 1
    assert len(probe.seen("publish.retried")) == 3
    assert 0 <= stage.clock.monotonic() - before < 5


def test_a_lost_declaration_is_repeated(request: Any) -> None:
    stage = Stage(request, script(declare=[BEFORE, AFTER]))
    stage.publisher.publish([message()], [ROUTE])
    assert stage.stored() == 1


def test_a_lost_answer_may_store_twice_but_never_not(request: Any) -> None:
    stage = Stage(request, script(publish=[AFTER]))
    stage.publisher.publish([message()], [ROUTE])
    assert stage.stored() == 2


def test_at_the_deadline_the_error_names_what_is_not_known(request: Any) -> None:
    stage = Stage(request, lambda operation: BEFORE if operation == "publish" else None)
    before = stage.clock.monotonic()
    with pytest.raises(PublishError, match="not known to be stored: a: no connection") as caught:
        stage.publisher.publish([message("a"), message("b")], [ROUTE], deadline_in=2.0)
    assert [task_id for task_id, _ in caught.value.refused] == ["a", "b"]
    assert isinstance(caught.value.__cause__, ConnectionLost)
    assert stage.clock.monotonic() - before <= 2.0


def test_at_the_deadline_the_error_says_what_the_server_said(request: Any) -> None:
    stage = Stage(request, script())
    with pytest.raises(PublishError) as caught:
        stage.publisher.publish([message("a")], [ROUTE], deadline_in=-1)
    told = str(caught.value.__cause__)
    assert "before anything was published" in told
    assert str(caught.value) == f"not confirmed within -1 s: a: {told}"


def test_a_deadline_after_a_lost_connection_leaves_open_what_is_stored(request: Any) -> None:
    attempts: list[str] = []

    def plan(operation: str) -> Fault | None:
        attempts.append(operation)
        if attempts.count("publish") < 2:
            return BEFORE if operation == "publish" else None
        stage.clock.advance(9)
        return None

    stage = Stage(request, plan)
    with pytest.raises(PublishError, match=r"not known to be stored: a: .*\(before that: .*\)"):
        stage.publisher.publish([message("a")], [ROUTE])


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        (ONCE, 1),
        (RetryPolicy.from_mapping({"max_retries": 2, "interval_start": 0.1}), 3),
    ],
)
def test_a_policy_limits_the_attempts(request: Any, policy: RetryPolicy, attempts: int) -> None:
    stage = Stage(request, lambda operation: BEFORE if operation == "publish" else None)
    with pytest.raises(PublishError, match=rf"attempts: {attempts}\)"):
        stage.publisher.publish([message()], [ROUTE], policy=policy)


def test_policies() -> None:
    policy = RetryPolicy.from_mapping(
        {"max_retries": 9, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
    )
    assert [policy.pause(attempt) for attempt in range(4)] == [0, 0.2, 0.4, 0.5]
    assert RetryPolicy.from_mapping({}).max_retries is None


def test_a_message_too_large_stops_all_before_anything_is_sent(request: Any) -> None:
    stage = Stage(request, script(), largest=10)
    with pytest.raises(MessageTooLarge, match=r"big: its body has 11 bytes.*allows 10") as caught:
        stage.publisher.publish([message("a"), message("big", b"x" * 11)], [ROUTE])
    assert [task_id for task_id, _ in caught.value.refused] == ["big"]
    assert stage.stored() == 0


def test_an_unroutable_message_is_reported(request: Any) -> None:
    stage = Stage(request, script())
    with pytest.raises(Unroutable):
        stage.publisher.publish([message()])


class Counting:
    """A transport that counts what it is asked; all else is the inner one's."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.declared = 0
        self.published: list[int] = []

    def declare(self, topology: Topology) -> None:
        self.declared += 1
        self.inner.declare(topology)

    def publish(self, messages: Sequence[Message], *, deadline: float) -> None:
        self.published.append(len(messages))
        self.inner.publish(messages, deadline=deadline)


def test_a_route_is_declared_once_and_again_when_the_server_forgot_it(request: Any) -> None:
    inner = servers.open(f"memory://{request.node.name}").transport
    transport = Counting(inner)
    publisher = Publisher(transport)  # type: ignore[arg-type]
    publisher.publish([message()], [ROUTE])
    publisher.publish([message()], [ROUTE])
    publisher.declare(ROUTE)
    assert (transport.declared, transport.published) == (1, [1, 1])

    other = Counting(servers.open(f"memory://{request.node.name}-emptied").transport)
    transport.inner = other.inner  # as after the loss of an unsaved Redis
    publisher.publish([message("a"), message("b")], [ROUTE])
    assert transport.declared == 2
    assert other.inner.depth(["q"])["q"].ready == 2
