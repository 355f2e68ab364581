from __future__ import annotations

from bench.figures import Case, Metric, Target
from bench.redis_systems import CELERY_AS_IT_IS, UMBEL
from bench.session import Stage
from bench.system import System
from bench.systems import QUEUES

#: Processes, and microseconds of each task.
WORKERS, LENGTH = 8, 10_000
TASKS = 10_000


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Let processes wait at the same time, and see how much they waited for us."""
    count = max(int(TASKS * stage.scale), 10 * WORKERS)
    with stage.session(system) as session:
        session.client.ask("fill", task="rest", count=count, size=LENGTH, within=120.0)
        with session.worker(WORKERS) as worker:
            spent = session.drain(count, worker, within=180.0)
    possible = WORKERS * 1e6 / LENGTH
    return {"rate": spent.rate, "share": spent.rate / possible * 100}


CASE = Case(
    name="waiting",
    title="Tasks that wait 10 ms, eight worker processes",
    method=(
        f"{TASKS:,} tasks of `time.sleep(0.01)` on a queue that was filled before. Eight processes "
        f"can do {WORKERS * 1e6 / LENGTH:,.0f} a second."
    ),
    metrics=(
        Metric("rate", "tasks/s", compared=True),
        Metric("share", "% of what is possible", 1),
    ),
    systems=(*QUEUES, UMBEL.name, CELERY_AS_IT_IS.name),
    measure=measure,
    targets=(Target("share", least=97.0),),
)
