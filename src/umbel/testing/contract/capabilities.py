"""What each of our servers must be able to do: the table of the design, as data."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from umbel.exceptions import UmbelError
from umbel.ids import new_id
from umbel.servers.seams import Capabilities
from umbel.testing.contract.stage import Stage, Suite
from umbel.topology import Exchange, Topology

_AMQP = frozenset({"direct", "topic", "fanout"})


def _row(  # noqa: PLR0913 -- the columns of the table
    commit: str = "atomic",
    *,
    delay_precision: float = 0.001,
    exchange_types: frozenset[str] = _AMQP,
    priorities: int = 10,
    dead_letters: bool = True,
    durable_ledger: bool = True,
    embedded: bool = False,
    finds: str = "exact",
) -> Capabilities:
    return Capabilities(
        commit=commit,
        delay_precision=delay_precision,
        exchange_types=exchange_types,
        priorities=priorities,
        dead_letters=dead_letters,
        durable_ledger=durable_ledger,
        stored="",
        embedded=embedded,
        finds=finds,
    )


#: No guarantee may be declared away: a server's capabilities equal its row, ``stored`` apart.
TABLE: dict[str, Capabilities] = {
    "memory": _row(durable_ledger=False, embedded=True),
    "sqlite": _row(embedded=True),
    # Celery's four buckets, which its workers read too.
    "redis": _row(priorities=4, finds="about"),
    # The last second of a delay may be spent in the worker. A companion store adds the ledger.
    "rabbitmq": _row(
        "ordered",
        delay_precision=1.0,
        exchange_types=_AMQP | {"headers"},
        durable_ledger=False,
        finds="",
    ),
    "rabbitmq+store": _row(
        "ordered", delay_precision=1.0, exchange_types=_AMQP | {"headers"}, finds=""
    ),
    "postgres": _row(),
}


class CapabilitiesContract(Suite):
    """A server says what it can do, and ours can do what the design demands."""

    def test_capabilities_equal_the_table_of_the_design(self, stage: Stage) -> None:
        has = stage.transport.capabilities
        if not stage.backend.row:
            return
        must = TABLE[stage.backend.row]
        assert has.commit == must.commit
        assert 0 < has.delay_precision <= must.delay_precision
        assert has.exchange_types == must.exchange_types
        assert has.priorities == must.priorities
        assert has.dead_letters == must.dead_letters
        assert has.durable_ledger == must.durable_ledger
        assert has.finds == must.finds

    def test_what_stored_means_is_one_sentence(self, stage: Stage) -> None:
        stored = stage.transport.capabilities.stored
        assert stored
        assert "\n" not in stored

    def test_commit_is_atomic_or_ordered(self, stage: Stage) -> None:
        assert stage.transport.capabilities.commit in ("atomic", "ordered")

    def test_display_url_is_without_the_password(self, stage: Stage) -> None:
        assert "://" in stage.server.display_url
        password = urlsplit(stage.backend.url).password
        assert not password or f":{password}@" not in stage.server.display_url

    def test_exchange_types_it_cannot_do_are_refused(self, stage: Stage) -> None:
        exchange = Exchange(f"x-{new_id()}", "headers")
        if "headers" in stage.transport.capabilities.exchange_types:
            stage.transport.declare(Topology(exchanges=(exchange,)))
        else:
            with pytest.raises(UmbelError, match="headers"):
                stage.transport.declare(Topology(exchanges=(exchange,)))

    def test_closing_a_server_again_changes_nothing(self, stage: Stage) -> None:
        server = stage.open()
        server.close()
        server.close()
