from __future__ import annotations

from bench.figures import Case, Metric, Target, percentile
from bench.session import Session, Stage
from bench.system import System
from bench.systems import QUEUES

#: Seconds of drain that the rate is learnt from, seconds under load.
LEARN, LOAD = 1.0, 3.0
#: Calls to an idle worker, and seconds between them.
PINGS, PAUSE = 100, 0.02


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Learn how fast it drains, then send at half of that, then one at a time."""
    with stage.session(system) as session:
        rate = _learn(session, stage.scale)
    with stage.session(system) as session, session.worker(2) as worker:
        session.warm_up(worker, 100)
        seconds = max(LOAD * stage.scale, 0.3)
        sent = session.client.ask("pace", rate=rate / 2, seconds=seconds, within=90.0)
        session.wait_for(sent["count"], worker, within=60.0)
        loaded = _milliseconds(session)
        session.probe.reset()
        pings = max(int(PINGS * min(stage.scale, 1.0)), 5)
        trips = session.client.ask("ping", count=pings, pause=PAUSE, within=120.0)
        idle = _milliseconds(session)
    return {
        "rate": sent["rate"],
        "asked": rate / 2,
        "p50": percentile(loaded, 0.5),
        "p99": percentile(loaded, 0.99),
        "idle p50": percentile(idle, 0.5),
        "idle p99": percentile(idle, 0.99),
        "trip p50": percentile(trips["milliseconds"], 0.5),
        "trip p99": percentile(trips["milliseconds"], 0.99),
    }


def _learn(session: Session, scale: float) -> float:
    count = session.count(LEARN * max(scale, 0.2))
    session.client.ask("fill", task="noop", count=count, within=60.0)
    with session.worker(2) as worker:
        return session.drain(count, worker, within=60.0).rate


def _milliseconds(session: Session) -> list[float]:
    return [each / 1e6 for slot in session.probe.slots() for each in slot.samples]


CASE = Case(
    name="latency",
    title="From `delay()` to the task's start",
    method=(
        "*Under load*: one process sends single calls at half of the rate at which two workers "
        "drain (learnt just before), or as fast as it can if that is less. *Idle*: one call at a "
        "time to a worker at rest; the round trip ends when the caller has the result."
    ),
    metrics=(
        Metric("asked", "half of the drain/s"),
        Metric("rate", "sent/s"),
        Metric("p50", "load p50 ms", 2),
        Metric("p99", "load p99 ms", 1, compared=True),
        Metric("idle p50", "idle p50 ms", 2, compared=True),
        Metric("idle p99", "idle p99 ms", 1),
        Metric("trip p50", "round trip p50 ms", 2, compared=True),
        Metric("trip p99", "round trip p99 ms", 1),
    ),
    systems=QUEUES,
    measure=measure,
    targets=(Target("p99", most=20.0), Target("idle p50", most=2.0)),
)
