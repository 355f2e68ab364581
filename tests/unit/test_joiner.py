"""Who sends the bodies of chords: at once, later, and in spite of what cannot be made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit import sent
from umbel import Umbel
from umbel.canvas.plan import Gate, join_of, node_of
from umbel.message import Arrival, Effects
from umbel.servers.seams import Joined
from umbel.worker.joiner import Joiner
from umbel.worker.launch import Worker, WorkerOptions
from umbel.worker.service import Service


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Umbel]:
    with Umbel("joiner", f"memory://{request.node.name}", set_as_current=False) as made:

        @made.task(name="body")
        def body(values: list[Any]) -> None: ...

        yield made


def complete(app: Umbel, join_id: str) -> tuple[str, ...]:
    servers = app.servers()
    join = join_of(Gate(join_id, 1, node_of("body", {})), None, expires_in=60.0)
    part = b'[1, "m", "SUCCESS", 5]'
    arrival = Arrival(join_id, "m:0", 0, part, join.context)
    return servers.committer.commit([Effects(None, opens=(join,), arrivals=(arrival,))]).joined


def worker(app: Umbel) -> Worker:
    return Worker(app, WorkerOptions(pool="solo", concurrency=1))


def test_a_body_is_sent_once_by_whoever_comes_first(app: Umbel) -> None:
    joined = complete(app, "join")
    assert joined == ("join",)
    one = worker(app)
    joiner = one.joiner(one.service())
    assert joiner is not None
    joiner.sweep()  # it is left to who completed it, for a while
    assert sent.messages(app) == []
    joiner.sweep(older_than=0.0)
    joiner.release(joined)
    joiner.sweep(older_than=0.0)
    assert [each.args for each in sent.requests(app)] == [[[5]]]


def test_what_cannot_be_made_keeps_nobody_from_the_rest(
    app: Umbel, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Service):
        def release(self, join_id: str, joined: Joined) -> Effects:
            if join_id == "odd":
                raise RuntimeError("odd")
            return super().release(join_id, joined)

    servers, whole = app.servers(), worker(app).service()
    service = Odd(whole.tasks, whole._policy, accept=frozenset(), node="n@h")
    assert servers.joins is not None
    joiner = Joiner(service, joins=servers.joins, committer=servers.committer)
    joiner.release((*complete(app, "odd"), *complete(app, "even")))
    assert len(sent.messages(app)) == 1
    assert "The body of chord odd cannot be made" in caplog.text
    assert list(servers.joins.unclosed(older_than=0.0)) == ["odd"]
