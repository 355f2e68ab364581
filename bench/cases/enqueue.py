from __future__ import annotations

from bench.figures import Case, Metric, Target
from bench.session import Stage
from bench.system import System

#: Calls sent one by one, and in bulk, by a system that syncs no commit.
ONE_BY_ONE, BULK = 15_000, 50_000
#: Calls in one bulk.
CHUNK = 1000
#: How much fewer calls a system gets that syncs every commit.
SYNCED = 5


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Send to a queue that nobody consumes."""
    synced = system.environment.get("BENCH_SYNCHRONOUS") == "FULL"
    count = int(ONE_BY_ONE * stage.scale) // (SYNCED if synced else 1)
    with stage.session(system) as session:
        session.client.ask("enqueue", task="noop", count=100, within=30.0)
        single = session.client.ask("enqueue", task="noop", count=count, within=60.0)
        values = {
            "one": count / single["seconds"],
            "cpu": single["cpu"] * 1e6 / count,
        }
        if system.sends_many:
            count = max(int(BULK * stage.scale), CHUNK)
            bulk = session.client.ask("fill", task="noop", count=count, chunk=CHUNK, within=60.0)
            values["bulk"] = count / bulk["seconds"]
    return values


CASE = Case(
    name="enqueue",
    title="Enqueue from one process",
    method=(
        "One by one: the call that users make (`task.delay(i)`), each stored as the system "
        f"promises before it returns. In bulk: {CHUNK} at a time, in one transaction. "
        "No worker runs."
    ),
    metrics=(
        Metric("one", "calls/s, one by one", compared=True),
        Metric("cpu", "client CPU µs/call", 1, compared=True),
        Metric("bulk", "calls/s, in bulk", compared=True),
    ),
    measure=measure,
    targets=(Target("one", least=12_000), Target("bulk", least=60_000)),
)
