from __future__ import annotations

from bench.figures import Case, Metric, Target, percentile
from bench.processes import MeasureError
from bench.session import Stage
from bench.system import System
from bench.systems import QUEUES

#: Seconds that the publisher is timed, and between its calls.
SECONDS, PAUSE = 2.0, 0.005
#: Seconds of work that the workers have, by the system's pace with two of them.
BACKLOG = 6.0
WORKERS = 8


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Time single calls while the workers have their hands full."""
    seconds = max(SECONDS * stage.scale, 0.2)
    with stage.session(system) as session:
        backlog = session.count(BACKLOG * max(stage.scale, 0.2))
        session.client.ask("fill", task="noop", count=backlog, within=120.0)
        with session.worker(WORKERS) as worker:
            session.wait_for(1, worker, within=30.0)
            took = session.client.ask("calls", seconds=seconds, pause=PAUSE, within=60.0)
            if session.probe.count() >= backlog:
                raise MeasureError(
                    "the workers had nothing left to do before the publisher was timed"
                )
    milliseconds: list[float] = took["milliseconds"]
    return {
        "p50": percentile(milliseconds, 0.5),
        "p99": percentile(milliseconds, 0.99),
        "most": max(milliseconds),
    }


CASE = Case(
    name="publisher",
    title="One call beside eight busy worker processes",
    method=(
        "How long `delay()` takes while eight processes drain a backlog of trivial tasks on the "
        "same file."
    ),
    metrics=(
        Metric("p50", "p50 ms", 2),
        Metric("p99", "p99 ms", 1, compared=True),
        Metric("most", "longest ms", 1),
    ),
    systems=QUEUES,
    measure=measure,
    targets=(Target("p99", most=30.0),),
)
