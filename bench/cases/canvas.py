from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.figures import Case, Metric, Target
from bench.redis_systems import CELERY, UMBEL
from bench.session import Session, Stage
from bench.system import System

#: Seconds after which a workflow is given up.
LIMIT = 150.0
OURS = ("umbel", UMBEL.name, "umbel, RabbitMQ + Redis")


class Form(NamedTuple):
    """A workflow: its form and the number of its members."""

    form: str
    size: int

    def send(self, session: Session, scale: float, *, wait: bool) -> dict[str, float]:
        """Send it; return members a second, and the memory that took."""
        size, timeout = max(int(self.size * scale), 10), LIMIT if wait else 0.0
        reply = session.client.ask(
            "workflow", form=self.form, size=size, timeout=timeout, within=LIMIT + 60.0
        )
        return {str(self): size / reply["seconds"], "memory": reply["memory"]}

    def __str__(self) -> str:
        """Return the metric's name."""
        return f"{self.form} {self.size:,}"


def _case(
    name: str,
    title: str,
    forms: Sequence[Form],
    systems: tuple[str, ...],
    targets: Sequence[Target],
) -> Case:
    groups = [each for each in forms if each.form == "group"]

    def measure(stage: Stage, system: System) -> dict[str, float]:
        found: dict[str, float] = {}
        with stage.session(system) as session:
            for each in groups:
                found |= each.send(session, stage.scale, wait=False)
        memory = found.pop("memory")
        with stage.session(system) as session, session.worker(2) as worker:
            session.warm_up(worker, 20)
            for each in forms[len(groups) :]:
                found |= each.send(session, stage.scale, wait=True)
        return {**found, "memory": memory}

    return Case(
        name=name,
        title=title,
        method=(
            "Members or links a second. *Group*: the call that sends it, made from a generator; "
            "*MB* is what the largest needs in the client. *Chord*, *chain*: from the call to the "
            f"value, with two worker processes; one that takes longer than {LIMIT:.0f} s is given "
            "up, and counted as if it had ended then."
        ),
        metrics=(
            *(Metric(str(form), str(form), compared=len(systems) > len(OURS)) for form in forms),
            Metric("memory", "MB", 1),
        ),
        measure=measure,
        targets=tuple(targets),
        systems=systems,
        ours=UMBEL.name,
    )


CASES = (
    _case(
        "canvas",
        "Redis, SQLite and RabbitMQ: workflows",
        (
            Form("group", 10_000),
            Form("group", 100_000),
            Form("chord", 1_000),
            Form("chain", 1_000),
            Form("chord", 10_000),
            Form("chain", 5_000),
        ),
        (*OURS, CELERY.name),
        (
            Target("group 10,000", least=25.0, of=CELERY.name),
            *(Target(f"{it} 1,000", least=10.0, of=CELERY.name) for it in ("chord", "chain")),
            *(Target(it, least=50.0, of=CELERY.name) for it in ("chord 10,000", "chain 5,000")),
        ),
    ),
    _case(
        "large-canvas",
        "Redis, SQLite and RabbitMQ: large workflows",
        (Form("group", 500_000), Form("chord", 100_000), Form("chain", 20_000)),
        OURS,
        (),
    ),
)
