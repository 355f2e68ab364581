"""The contract suites on a real RabbitMQ, as far as its nature lets them.

Two things are different there, and replaced below by what holds instead:

- A hold is a connection, not a lease: no ``LeaseContract``, and no ``ModelContract``, which plays
  leases, charges and dead letters. The server itself gives back at once what a dead process held;
  ``tests/system/test_rabbitmq_kill.py`` has the deaths.
- AMQP lists no queues.

With a companion store it has a ledger too, and keeps what ``LedgerContract`` and ``DeathContract``
promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from umbel.exceptions import ImproperlyConfigured
from umbel.servers import open as open_server
from umbel.servers.companion import Accompanied
from umbel.servers.seams import DeadConsumer, Server
from umbel.testing.contract import (
    Backend,
    CapabilitiesContract,
    CommitContract,
    ConsumerContract,
    DeathContract,
    FaultContract,
    LedgerContract,
    ProcessContract,
    ResultContract,
    Stage,
    TimetableContract,
    TransportContract,
)
from umbel.testing.contract.faults import flaky, patiently
from umbel.testing.flaky import AFTER, BEFORE, DROP, Fault, script


class TestRabbitmq(
    CapabilitiesContract,
    TransportContract,
    ConsumerContract,
    CommitContract,
    ResultContract,
    FaultContract,
    ProcessContract,
):
    @pytest.fixture
    def backend(self, rabbitmq_url: str) -> Backend:
        return Backend(rabbitmq_url, row="rabbitmq", short=0.6, quiet=0.2)

    def test_groups_cannot_be_saved(self, stage: Stage) -> None:
        results = stage.server.results
        for use in (results.saved_group, results.forget_group):
            with pytest.raises(ImproperlyConfigured, match="result_backend"):
                use("group")
        with pytest.raises(ImproperlyConfigured, match="result_backend"):
            results.save_group("group", b"", expires_in=None)

    def test_queues_are_all_that_exist(self, stage: Stage) -> None:
        """Those that this handle declared."""
        before = set(stage.transport.queues())
        declared = {stage.queue(), stage.queue()}
        assert set(stage.transport.queues()) - before == declared

    @pytest.mark.parametrize("fault", [BEFORE, AFTER, DROP], ids=lambda fault: fault.kind)
    def test_a_recover_that_failed_may_be_repeated_and_charges_once(
        self, stage: Stage, queue: str, fault: Fault
    ) -> None:
        """Nobody but its own process can end the hold of a consumer that lives."""
        (task_id,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        held = stage.one(consumer)
        dead = DeadConsumer(consumer_id, (task_id,))
        server = flaky(stage, script(recover=[fault]))
        assert patiently(server.transport.recover, [dead]) == 0
        assert stage.transport.recover([dead]) == 1
        assert stage.transport.recover([dead]) == 0
        assert stage.acknowledge(held).stale == (held,)
        assert stage.one(stage.consumer(queue)).redelivered


class TestRabbitmqWithCompanion(
    CapabilitiesContract,
    ConsumerContract,
    DeathContract,
    CommitContract,
    LedgerContract,
    TimetableContract,
):
    @pytest.fixture
    def backend(self, rabbitmq_url: str, tmp_path: Path) -> Iterator[Backend]:
        with ExitStack() as stores:

            def with_ledger(broker: Server) -> Server:
                store = open_server(f"sqlite:///{tmp_path}/ledger", {})
                stores.callback(store.close)
                assert store.ledger is not None
                return Accompanied(broker, store.ledger, store.timetable)

            yield Backend(
                rabbitmq_url, row="rabbitmq+store", short=0.6, quiet=0.2, wrap=with_ledger
            )

    def test_one_running_message_is_charged_with_the_crash(self, stage: Stage, queue: str) -> None:
        """Nobody but its own process can end the hold of a consumer that lives."""
        innocent, guilty = stage.send(queue, 2)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer, 2)
        dead = DeadConsumer(consumer_id, running=(guilty,))
        assert stage.open().transport.recover([dead]) == 0
        consumer.close()
        got = {each.message.id: each.crashes for each in stage.take(stage.consumer(queue), 2)}
        assert got == {innocent: 0, guilty: 1}
