from __future__ import annotations

from dataclasses import dataclass, replace

from bench.figures import Case, Metric
from bench.session import Session, Stage
from bench.system import System


@dataclass(frozen=True, slots=True)
class Load:
    """Payloads of one size."""

    key: str
    #: Characters of the task's one argument.
    size: int
    #: Tasks at most.
    most: int
    #: Messages in one transaction of the publisher.
    chunk: int


LOADS = (
    Load("tiny", 20, 10_000, 1000),
    Load("kilobytes", 10_000, 3_000, 100),
    Load("megabyte", 1_000_000, 60, 10),
)
#: Seconds of work for each system and size, by its own pace.
SECONDS = 1.0


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Drain payloads of each size, each on a fresh file."""
    values: dict[str, float] = {}
    for load in LOADS:
        with stage.session(system) as session:
            values |= _drain(session, load, stage.scale)
    return values


def _drain(session: Session, load: Load, scale: float) -> dict[str, float]:
    count = min(session.count(SECONDS * scale), load.most)
    sent = session.client.ask(
        "fill", task="take", count=count, chunk=load.chunk, size=load.size, within=120.0
    )
    with session.worker(2) as worker:
        spent = session.drain(count, worker, within=60.0)
    return {
        f"{load.key} rate": spent.rate,
        f"{load.key} cpu": spent.cpu * 1e6,
        f"{load.key} server": spent.server * 1e6,
        f"{load.key} client": sent["cpu"] * 1e6 / count,
    }


_CPU = {"cpu": "worker CPU µs", "client": "client CPU µs", "server": "server CPU µs"}


def _metrics(*spent: str) -> tuple[Metric, ...]:
    return tuple(
        metric
        for load, title in zip(LOADS, ("20 B", "10 KB", "1 MB"), strict=True)
        for metric in (
            Metric(f"{load.key} rate", f"{title}: tasks/s"),
            *(Metric(f"{load.key} {what}", _CPU[what], 1) for what in spent),
        )
    )


CASE = Case(
    name="payloads",
    title="CPU a task, by the size of its argument",
    method=(
        "The queue is filled before two worker processes drain it. Worker CPU is that of all the "
        "worker's processes, from the first task that runs until every result is stored; client "
        "CPU is that of sending in bulk. The argument is a string, the result its length."
    ),
    metrics=_metrics("cpu", "client"),
    systems=(
        "umbel",
        "bare, results",
        "huey, no fsync",
        "potatoq",
        "flexiq",
    ),
    measure=measure,
)
#: Where a Redis spends as well.
ON_SERVER = replace(CASE, metrics=_metrics("cpu", "client", "server"))
