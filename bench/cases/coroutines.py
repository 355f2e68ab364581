from __future__ import annotations

from bench.figures import Case, Metric, Target, percentile
from bench.session import Stage
from bench.system import System

#: Naps sent to each system; who runs them a few at a time gets fewer.
NAPS = {"umbel": 10_000, "flexiq, threads": 500, "potatoq": 5}
#: Synchronous tasks a second beside them, and for how many seconds.
RATE, SECONDS = 20.0, 5.0


def measure(stage: Stage, system: System) -> dict[str, float]:
    """Send naps of one second, and synchronous tasks while they are slept."""
    naps = max(int(NAPS[system.name] * min(stage.scale, 1.0)), 5)
    with stage.session(system, coroutines=True) as session, session.worker(1) as worker:
        session.warm_up(worker, 20)
        sent = session.client.ask("fill", task="nap", count=naps, within=30.0)
        beside = session.client.ask("pace", rate=RATE, seconds=SECONDS * stage.scale, within=60.0)
        session.wait_for(naps + beside["count"], worker, within=90.0)
        seconds = (session.last() - sent["began"]) / 1e9
        late = [each / 1e6 for slot in session.probe.slots() for each in slot.samples]
    return {
        "naps": naps,
        "seconds": seconds,
        "rate": naps / seconds,
        "p50": percentile(late, 0.5),
        "p99": percentile(late, 0.99),
    }


CASE = Case(
    name="coroutines",
    title="Coroutine tasks: `await asyncio.sleep(1)` in one worker process",
    method=(
        "From the first call to the last task that ends. Beside them, synchronous tasks are sent "
        f"at a steady {RATE:.0f}/s: the columns on the right say how long after `delay()` these "
        "start. Who runs coroutines a few at a time gets fewer of them."
    ),
    metrics=(
        Metric("naps", "naps"),
        Metric("seconds", "seconds", 2),
        Metric("rate", "naps/s", compared=True),
        Metric("p50", "sync p50 ms", 1),
        Metric("p99", "sync p99 ms", 1),
    ),
    systems=tuple(NAPS),
    measure=measure,
    targets=(Target("seconds", most=15.0), Target("p99", most=100.0)),
)
