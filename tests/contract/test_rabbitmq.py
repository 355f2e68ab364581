"""The contract suites on a real RabbitMQ, as far as its capabilities and its nature say so."""

from __future__ import annotations

import pytest

from umbel.testing.contract import (
    Backend,
    CapabilitiesContract,
    CommitContract,
    ConsumerContract,
    ResultContract,
    Stage,
    TransportContract,
)


class TestRabbitmq(
    CapabilitiesContract, TransportContract, ConsumerContract, CommitContract, ResultContract
):
    """Without leases (a hold is a connection) and without a ledger."""

    @pytest.fixture
    def backend(self, rabbitmq_url: str) -> Backend:
        return Backend(rabbitmq_url, row="rabbitmq", short=0.6, quiet=0.2)

    def test_queues_are_all_that_exist(self, stage: Stage) -> None:
        """AMQP cannot list queues: known are those that this handle declared."""
        before = set(stage.transport.queues())
        declared = {stage.queue(), stage.queue()}
        assert set(stage.transport.queues()) - before == declared
