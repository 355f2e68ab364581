from __future__ import annotations

from bench.figures import OURS, Case, Metric, Target
from bench.session import Stage
from bench.system import System

SECONDS = 6.0
#: Replacements a second, of both processes together.
REPLACEMENTS = 1.0


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Drain the same backlog with processes that stay, and with some that are replaced."""
    count = max(int(system.pace * SECONDS * stage.scale), 1000)
    kept = _drain(stage, system, count)
    each = int(kept / REPLACEMENTS)
    replaced = _drain(stage, system, count, "--max-tasks-per-child", str(each))
    return {"kept": kept, "replaced": replaced, "loss": (1 - replaced / kept) * 100}


def _drain(stage: Stage, system: System, count: int, *options: str) -> float:
    with stage.session(system) as session:
        session.client.ask("fill", task="noop", count=count, within=120.0)
        with session.worker(2, *options) as worker:
            return session.drain(count, worker, within=120.0).rate


CASE = Case(
    name="recycling",
    title="Processes replaced while they work",
    method=(
        "A backlog of trivial tasks on two processes: with processes that stay, and with "
        f"`--max-tasks-per-child` so small that {REPLACEMENTS:.0f} is replaced every second."
    ),
    metrics=(
        Metric("kept", "tasks/s, none replaced"),
        Metric("replaced", "tasks/s, one a second"),
        Metric("loss", "% lost", 1),
    ),
    systems=(OURS,),
    measure=measure,
    targets=(Target("loss", most=2.0),),
)
