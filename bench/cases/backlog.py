from __future__ import annotations

import os
from dataclasses import dataclass

from bench.figures import Case, Metric, Target
from bench.session import Session, Stage
from bench.system import System


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages wait while we measure."""

    key: str
    waiting: int


SHALLOW, DEEP = Depth("shallow", 10_000), Depth("deep", 1_000_000)
#: Calls sent one by one and in bulk at each depth, and tasks run.
ONE_BY_ONE, BULK, RUN = 5_000, 20_000, 30_000


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Send to and drain a short queue, then a long one."""
    values: dict[str, float] = {}
    for depth in (SHALLOW, DEEP):
        with stage.session(system) as session:
            values |= _at_depth(session, depth, stage.scale)
    return values


def _at_depth(session: Session, depth: Depth, scale: float) -> dict[str, float]:
    ask, waiting = session.client.ask, int(depth.waiting * scale)
    one, bulk = int(ONE_BY_ONE * scale), int(BULK * scale)
    ask("fill", task="noop", count=waiting, within=300.0)
    os.sync()  # what filling left to write is not charged to what follows
    single = ask("enqueue", task="noop", count=one, within=60.0)
    many = ask("fill", task="noop", count=bulk, within=60.0)
    with session.worker(2) as worker:
        run = min(int(RUN * scale), waiting)
        session.wait_for(run, worker, within=60.0)
        first = min(slot.first for slot in session.probe.slots())
        ran, last = session.probe.count(), session.last()
    return {
        f"{depth.key} one": one / single["seconds"],
        f"{depth.key} bulk": bulk / many["seconds"],
        f"{depth.key} drain": (ran - 1) / ((last - first) / 1e9),
    }


CASE = Case(
    name="backlog",
    title="A million messages waiting",
    method=(
        f"Rates with {SHALLOW.waiting:,} and with {DEEP.waiting:,} messages in the queue: calls "
        "one by one and in bulk, then the first tasks that two worker processes run."
    ),
    metrics=tuple(
        Metric(f"{depth.key} {what}", f"{depth.waiting:,}: {title}")
        for what, title in (("one", "calls/s"), ("bulk", "in bulk/s"), ("drain", "tasks/s"))
        for depth in (SHALLOW, DEEP)
    ),
    systems=("umbel", "bare, results"),
    measure=measure,
    targets=tuple(
        Target(f"deep {what}", least=0.8, of_metric=f"shallow {what}")
        for what in ("one", "bulk", "drain")
    ),
    rounds=2,
)
