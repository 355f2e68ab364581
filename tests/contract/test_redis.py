"""The contract of a server, held by Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from umbel import servers
from umbel.exceptions import PublishError
from umbel.ids import new_id
from umbel.message import Effects
from umbel.servers.seams import Server
from umbel.testing.contract import (
    Backend,
    CommitContract,
    ConsumerContract,
    JoinContract,
    ModelContract,
    ServerContract,
    Stage,
    TransportContract,
)
from umbel.testing.contract.stage import message


def backend_of(url: str, *, park_unserved: bool) -> Backend:
    options = {
        # Channels know no databases: so the results of tests that run at once are kept apart.
        "result_keyprefix": new_id(),
        # By default 0 is the highest priority, as for Celery's workers; the contract's is 9.
        "highest_priority": 9,
        "park_unserved": park_unserved,
    }
    # Time really passes, so the model plays few histories; it plays others each time.
    return Backend(url, row="redis", options=options, short=0.4, histories=4)


class TestRedis(ServerContract):
    @pytest.fixture
    def backend(self, redis_url: str) -> Backend:
        return backend_of(redis_url, park_unserved=True)

    def test_headers_that_are_no_json_are_refused_and_not_as_too_large(
        self, stage: Stage, queue: str
    ) -> None:
        with pytest.raises(PublishError, match="no form in JSON") as caught:
            stage.publish(message(queue, headers={"x": object()}))
        assert type(caught.value) is PublishError


class Pair:
    """Queues in one database and results in another, as many have Celery configured."""

    def __init__(self, broker: Server, store: Server) -> None:
        committer = broker.committer_with(store)
        assert committer is not None
        self.display_url = broker.display_url
        self.transport = broker.transport
        self.results = store.results
        self.ledger = broker.ledger
        self.joins = store.joins
        self.timetable = broker.timetable
        self.bus = broker.bus
        self.committer = committer
        self.warnings = broker.warnings
        self.committer_with = broker.committer_with
        self.close = broker.close


class TestRedisAcrossDatabases(CommitContract, JoinContract, ModelContract):
    @pytest.fixture
    def backend(self, new_redis_url: Callable[[], str]) -> Iterator[Backend]:
        backend = backend_of(new_redis_url(), park_unserved=True)
        store = servers.open(new_redis_url(), {"result_keyprefix": new_id()})
        yield replace(backend, wrap=lambda broker: Pair(broker, store))
        store.close()

    def test_results_lie_in_their_own_database(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        held = stage.one(stage.consumer(queue))
        stage.commit(Effects(held, results=(stage.record(task_id, b"done"),)))
        assert stage.results(task_id) == {task_id: b"done"}
        assert servers.open(stage.backend.url).results.get([task_id]) == {}


class TestRedisWithCelerysWorkersInMind(TransportContract, ConsumerContract, CommitContract):
    """By default, what is delayed for a queue that no umbel consumes is not counted as such."""

    test_depth_counts_ready_delayed_and_held = None  # type: ignore[assignment]
    test_depth_counts_what_is_due_as_ready_though_nobody_receives = None  # type: ignore[assignment]

    @pytest.fixture
    def backend(self, redis_url: str) -> Backend:
        return backend_of(redis_url, park_unserved=False)
