"""The specification of a server as tests: whatever implements ``umbel.servers.seams`` must pass.

A server plugs in with one thin file. It says how to reach an empty server and how time passes, and
picks the suites; ``ServerContract`` is all of them:

    from umbel.testing.clock import FakeClock
    from umbel.testing.contract import Backend, ServerContract

    class TestSqlite(ServerContract):
        @pytest.fixture
        def backend(self, tmp_path: Path) -> Backend:
            clock = FakeClock.running()
            url = f"sqlite:///{tmp_path}/queue"
            return Backend(url, row="sqlite", clock=clock, options={"clock": clock})

A server whose leases and due times come from its own clock takes no fake one; then time really
passes, in short pieces: ``Backend(url, row="redis", short=0.4)``.

The suites need pytest with pytest-timeout, and Hypothesis.

Nothing here asks which server it is. Where servers may differ, ``Capabilities`` says how, and
``capabilities.TABLE`` is what each of ours must be able to do. One without a ledger leaves out
``LedgerContract`` and ``TimetableContract`` (without joins ``JoinContract``) and lists the others.
"""

from __future__ import annotations

import pytest

# ruff: noqa: E402 -- the suites are imported after this line, which has to know of them
# They stand in an installed package, where pytest explains no failed assertion by itself.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "capabilities",
            "commit",
            "consumer",
            "faults",
            "joins",
            "leases",
            "ledger",
            "model",
            "process",
            "results",
            "stage",
            "timetable",
            "transport",
        )
    )
)

from umbel.testing.contract.capabilities import CapabilitiesContract
from umbel.testing.contract.commit import CommitContract
from umbel.testing.contract.consumer import ConsumerContract
from umbel.testing.contract.faults import FaultContract
from umbel.testing.contract.joins import JoinContract
from umbel.testing.contract.leases import DeathContract, LeaseContract
from umbel.testing.contract.ledger import LedgerContract
from umbel.testing.contract.model import ModelContract
from umbel.testing.contract.process import ProcessContract
from umbel.testing.contract.results import ResultContract, SavedGroupContract
from umbel.testing.contract.stage import Backend, Stage
from umbel.testing.contract.timetable import TimetableContract
from umbel.testing.contract.transport import TransportContract

__all__ = [
    "Backend",
    "CapabilitiesContract",
    "CommitContract",
    "ConsumerContract",
    "DeathContract",
    "FaultContract",
    "JoinContract",
    "LeaseContract",
    "LedgerContract",
    "ModelContract",
    "ProcessContract",
    "ResultContract",
    "SavedGroupContract",
    "ServerContract",
    "Stage",
    "TimetableContract",
    "TransportContract",
]


class ServerContract(
    CapabilitiesContract,
    TransportContract,
    ConsumerContract,
    LeaseContract,
    DeathContract,
    CommitContract,
    ResultContract,
    SavedGroupContract,
    LedgerContract,
    JoinContract,
    TimetableContract,
    ModelContract,
    FaultContract,
    ProcessContract,
):
    """All that a server with a ledger of its own promises."""
