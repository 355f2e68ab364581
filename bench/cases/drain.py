from __future__ import annotations

from dataclasses import replace

from bench.figures import Case, Metric, Target
from bench.session import Session, Stage
from bench.system import System

#: Seconds of work for each system, by its own pace.
SECONDS = 2.0
#: Messages a transaction of the publisher that runs beside the workers.
CHUNK = 100


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Drain a queue that was filled before, then one that is filled meanwhile."""
    with stage.session(system) as session:
        values = _filled_before(session, session.count(SECONDS * stage.scale))
    with stage.session(system) as session:
        return values | _filled_meanwhile(session, session.count(SECONDS * stage.scale))


def _filled_before(session: Session, count: int) -> dict[str, float]:
    session.client.ask("fill", task="noop", count=count, within=120.0)
    with session.worker(2) as worker:
        spent = session.drain(count, worker, within=60.0)
    return {"filled": spent.rate, "cpu": spent.cpu * 1e6, "server": spent.server * 1e6}


def _filled_meanwhile(session: Session, count: int) -> dict[str, float]:
    with session.worker(2) as worker:
        session.warm_up(worker, session.count(0.1))
        session.client.begin("fill", task="noop", count=count, chunk=CHUNK)
        session.wait_for(count, worker, within=60.0)
        began = session.client.finish(60.0)["began"]
    return {"meanwhile": count / ((session.last() - began) / 1e9)}


CASE = Case(
    name="drain",
    title="Drain of trivial tasks, two worker processes",
    method=(
        "*Filled before*: from the first task that runs to the last; the worker is started on a "
        "full queue. *Filled meanwhile*: from the publisher's first call to the last task that "
        f"runs; the publisher sends {CHUNK} at a time where the system can. Results are stored "
        "and compared (the plain bare loop has none)."
    ),
    metrics=(
        Metric("filled", "tasks/s, filled before", compared=True),
        Metric("meanwhile", "tasks/s, filled meanwhile", compared=True),
        Metric("cpu", "worker CPU µs/task", 1, compared=True),
    ),
    measure=measure,
    targets=(
        Target("meanwhile", least=0.4, of="bare"),
        Target("filled", least=0.4, of="bare"),
        Target("filled", least=20_000),
    ),
)
#: Where a Redis spends as well.
ON_SERVER = replace(
    CASE, metrics=(*CASE.metrics, Metric("server", "server CPU µs/task", 1, compared=True))
)
