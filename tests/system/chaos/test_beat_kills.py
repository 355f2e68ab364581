"""Schedulers killed, stopped beyond their lease and restarted at random: every due time once.

    CHAOS_SECONDS=300 make test PYTEST="-s tests/system/chaos/test_beat_kills.py"

is the long run. What is due is known without any scheduler: the due times of each entry from its
beginning to where it is now, and the id of the task that each sends. What was sent is in the queue.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, redis_server, running
from tests.system.chaos import harness
from tests.system.chaos.harness import Chaos
from tests.system.projects import UMBEL, Project
from umbel import Umbel
from umbel.beat.sending import tick_id
from umbel.ids import new_id
from umbel.scheduling.outlook import following_of
from umbel.scheduling.state import State

SECONDS = float(os.environ.get("CHAOS_SECONDS", "12"))
#: Seconds; stops and takeovers come often.
LEASE = 1.0
OTHERS = 3

pytestmark = pytest.mark.timeout(120 + 4 * SECONDS)

ENTRIES = {
    f"entry {n}": {
        "task": "tasks.tick",
        "schedule": 0.1 + n / 20,
        "missed": "all",
        "limit": 1000,
        "options": {"queue": "ticks"},
    }
    for n in range(12)
}
TASKS = f"""
from umbel import Umbel

app = Umbel("beats", beat_lease={LEASE}, beat_schedule={ENTRIES})

@app.task
def tick():
    pass
"""


class Beats:
    """Schedulers of one project: one in a worker, the others in processes of their own."""

    def __init__(self, project: Project, chaos: Chaos, stack: ExitStack) -> None:
        self._chaos = chaos
        commands = [("worker", "-B", "-P", "solo", "-Q", "other", "-q"), *[("beat",)] * OTHERS]
        self.servers = [
            stack.enter_context(running(scheduler(project, f"beat-{number}", command)))
            for number, command in enumerate(commands)
        ]
        self.counts: Counter[str] = Counter()

    def disturb(self, dice: random.Random) -> None:
        """Do something bad to one of them."""
        server = dice.choice(self.servers)
        kind = dice.choice(("kill", "kill", "stop", "restart"))
        self.counts[kind] += 1
        if kind == "kill":
            server.kill()
            server.start()
        elif kind == "restart":
            server.stop()
            server.start()
        else:
            harness.pause(self._chaos, [server.pid])
            time.sleep(LEASE * dice.uniform(0.5, 2.5))
            os.kill(server.pid, signal.SIGCONT)


def scheduler(project: Project, name: str, command: Sequence[str]) -> Server:
    log = project.folder / f"{name}.log"
    return Server(
        [*UMBEL, *command, "-A", "tasks"],
        url=name,
        log=log,
        ready=lambda: " ready." in log.read_text(),
        environment=project.environment,
        directory=project.folder,
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, TASKS)


def play(
    project: Project,
    broker: str,
    tmp_path: Path,
    *,
    server: Server | None = None,
    **settings: str,
) -> Beats:
    """Disturb schedulers for a while; all of them have ended then."""
    project.environment["UMBEL_BROKER_URL"] = broker
    dice, end = random.Random(7), time.monotonic() + SECONDS
    with ExitStack() as stack:
        beats = Beats(project, Chaos(broker, tmp_path, {}), stack)
        while time.monotonic() < end:
            beats.disturb(dice)
            time.sleep(dice.uniform(0.0, 0.8))
            if server is not None and dice.random() < 0.25:
                server.kill()
                server.start()
                beats.counts["server"] += 1
        await_progress(broker, **settings)
    return beats


def await_progress(broker: str, **settings: str) -> None:
    """Wait until every entry has gone beyond this moment, so one of the schedulers goes on."""
    now = time.time()
    with client(broker, **settings) as app:
        harness.wait_until(
            lambda: all(state.due_at > now for state in states(app).values()),
            timeout=60,
            why=lambda: str(states(app)),
        )


def client(broker: str, **settings: str) -> Umbel:
    options: dict[str, Any] = {"beat_schedule": ENTRIES, **settings}
    return Umbel("beats", broker=broker, set_as_current=False, **options)


def states(app: Umbel) -> dict[str, State]:
    """Return how far each entry is."""
    timetable = app.servers().broker.timetable
    assert timetable is not None
    progress = timetable.progress(app.schedule.table)
    found = {name: State.read(progress[name]) for name in app.schedule.entries().by_name}
    return {name: state for name, state in found.items() if state is not None}


def sent(app: Umbel) -> list[str]:
    transport = app.servers().broker.transport
    found: list[str] = []
    consumer = transport.consume(["ticks"], consumer_id=new_id(), lease=60.0)
    while got := consumer.receive(1000, timeout=0.5):
        found += [delivery.message.id for delivery in got]
    consumer.close()
    return found


def due(app: Umbel) -> Iterator[str]:
    """Yield the ids of all due times that were dealt with."""
    far = states(app)
    for name, listed in app.schedule.entries().by_name.items():
        state = far[name]
        assert state.missed == 0, "no run may be missed: the policy is to make up for all"
        following = following_of(listed.entry, state, app.schedule.zone)
        at = following(state.anchor)
        while at is not None and at <= state.due_at:
            yield tick_id(app.schedule.table, name, at)
            at = following(at)


def account(beats: Beats, broker: str, **settings: str) -> tuple[Counter[str], list[str]]:
    """Return the ids of what was sent, and of what was due."""
    with client(broker, **settings) as app:
        got, wanted = Counter(sent(app)), [*due(app)]
    print(f"{len(wanted)} due times; {dict(beats.counts)}")
    assert len(wanted) > 10 * SECONDS
    return got, wanted


def test_on_sqlite_every_due_time_is_sent_once(project: Project, tmp_path: Path) -> None:
    broker = f"sqlite:///{tmp_path}/queue.sqlite"
    got, wanted = account(play(project, broker, tmp_path), broker)
    assert got == Counter(wanted)


def test_on_redis_every_due_time_is_sent_once(
    project: Project, tmp_path: Path, redis_url: str
) -> None:
    got, wanted = account(play(project, redis_url, tmp_path), redis_url)
    assert got == Counter(wanted)


def test_on_redis_that_is_killed_every_due_time_is_sent_once(
    project: Project, tmp_path: Path, server_directory: Path
) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(server_directory, *options) as server:
        beats = play(project, server.url, tmp_path, server=server)
        got, wanted = account(beats, server.url)
    assert got == Counter(wanted)


def test_on_rabbitmq_with_a_store_none_is_missing_and_a_repeat_is_recognised(
    project: Project, tmp_path: Path, rabbitmq_url: str, redis_url: str
) -> None:
    project.environment["UMBEL_LEDGER_URL"] = redis_url
    beats = play(project, rabbitmq_url, tmp_path, ledger_url=redis_url)
    got, wanted = account(beats, rabbitmq_url, ledger_url=redis_url)
    assert set(got) == set(wanted)
    print(f"{sum(got.values()) - len(got)} repeats")
