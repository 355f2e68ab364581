"""Random workflows while their workers are being killed: what comes out is what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.system.chaos.harness import Chaos, worker
from tests.system.chaos.journal import read
from tests.system.chaos.test_chord_kills import GAPS as JOINING
from tests.system.chaos.test_kills import GAPS, SEVERAL
from tests.system.test_canvas_meaning import Node, build, found, outcome, workflows
from umbel import Umbel

pytestmark = pytest.mark.timeout(180)

#: Workflows that run at a time, and how often.
TOGETHER, TIMES = 40, 2
#: Seconds until a workflow has ended, whatever is killed meanwhile.
PATIENCE = 90.0


@pytest.fixture(params=["sqlite", "redis", "rabbitmq+redis"])
def chaos(request: pytest.FixtureRequest, tmp_path: Path) -> Chaos:
    gaps = {**GAPS, **JOINING, "run": 0.02}
    if request.param == "sqlite":
        return Chaos(f"sqlite:///{tmp_path}/chaos.sqlite", tmp_path, gaps)
    store = str(request.getfixturevalue("redis_url"))
    if request.param == "redis":
        return Chaos(store, tmp_path, gaps)
    return Chaos(str(request.getfixturevalue("rabbitmq_url")), tmp_path, gaps, results=store)


def test_workflows_mean_what_they_say_whoever_dies(chaos: Chaos) -> None:
    with (
        Umbel("client", broker=chaos.broker, backend=chaos.store, set_as_current=False) as app,
        worker(chaos),
    ):
        say, fail = app.signature("say"), app.signature("fail")

        @settings(
            max_examples=TIMES,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(workflows, min_size=TOGETHER, max_size=TOGETHER))
        def check(nodes: list[Node]) -> None:
            sent: list[Any] = [
                build(node, say=lambda word: say.clone((word,)), fail=fail.clone).apply_async()
                for node in nodes
            ]
            for node, result in zip(nodes, sent, strict=True):
                assert found(result, PATIENCE) == outcome(node)

        check()
    kills = read(chaos.journal).kills
    print(kills)
    assert sum(kills.values()) >= SEVERAL, kills
