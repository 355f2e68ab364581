from __future__ import annotations

from bench.figures import Case, Metric, Target, percentile
from bench.redis_systems import CELERY_AS_IT_IS, UMBEL
from bench.session import Stage
from bench.system import System
from bench.systems import QUEUES

WORKERS = 4
#: Seconds of a long task, and between two of them: so three processes are busy with them, and one
#: is always free.
LONG, EVERY = 1.0, 1 / 3
#: Short tasks a second, and seconds of it.
RATE, SECONDS = 100.0, 6.0


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Time how long short tasks wait beside long ones while there is always a free process."""
    seconds = max(SECONDS * stage.scale, 0.5)
    with stage.session(system) as session, session.worker(WORKERS) as worker:
        session.warm_up(worker, 50)
        sent = session.client.ask(
            "mixed", rate=RATE, seconds=seconds, hog_every=EVERY, hog=LONG, within=60.0
        )
        session.wait_for(sent["count"], worker, within=60.0)
        waits = [each / 1e6 for slot in session.probe.slots() for each in slot.samples]
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99), "most": max(waits)}


CASE = Case(
    name="mixed",
    title="Short tasks beside long ones, four worker processes",
    method=(
        f"Tasks of no length come at {RATE:.0f}/s, tasks of {LONG:.0f} s at {1 / EVERY:.0f}/s, "
        "so of four processes one is always free. How long short tasks wait from `delay()` to "
        "their start."
    ),
    metrics=(
        Metric("p50", "p50 ms", 1),
        Metric("p99", "p99 ms", 1, compared=True),
        Metric("most", "longest ms", 1, compared=True),
    ),
    systems=(*QUEUES, UMBEL.name, CELERY_AS_IT_IS.name),
    measure=measure,
    targets=(Target("most", most=500.0),),
)
