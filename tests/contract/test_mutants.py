"""The suites are tested too: servers with a well-known mistake, each of which they must catch.

Each mutant is the memory server with one method replaced by a plausible mistake. The model-based
test has to find every one of them without being told what to look for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from umbel.ids import new_id
from umbel.message import Delivery, Effects, Ending
from umbel.servers.memory import queues
from umbel.servers.memory.commit import MemoryCommit
from umbel.servers.memory.queues import MemoryConsumer
from umbel.servers.memory.shelf import Kept, Shelf
from umbel.servers.memory.space import Entry, Line, Session, Space
from umbel.servers.seams import CommitReport, DeadConsumer
from umbel.testing.clock import FakeClock
from umbel.testing.contract import Backend, Stage
from umbel.testing.contract.model import play

#: Histories in which a mutant must be found; some need a rare order of events.
HISTORIES = 250

Patch = Callable[[Any, str, Any], None]


def test_the_unchanged_server_passes(stage: Stage) -> None:
    play(stage, HISTORIES)


def result_unfenced(patch: Patch) -> None:
    commit = MemoryCommit.commit

    def mutant(self: MemoryCommit, effects: list[Effects]) -> CommitReport:
        with self._space.lock:
            self._space.shelf.put([record for each in effects for record in each.results])
        return commit(self, effects)

    patch(MemoryCommit, "commit", mutant)


def follow_ups_unfenced(patch: Patch) -> None:
    commit = MemoryCommit.commit

    def mutant(self: MemoryCommit, effects: list[Effects]) -> CommitReport:
        with self._space.lock:
            for message in [message for each in effects for message in each.publish]:
                self._space.store(message, self._space.routes(message))
        return commit(self, [replace(each, publish=()) for each in effects])

    patch(MemoryCommit, "commit", mutant)


def commit_in_two_steps(patch: Patch) -> None:
    """Store the result before it is known that the follow-ups can be routed."""
    lost = MemoryCommit._lost

    def mutant(self: MemoryCommit, effects: Effects) -> list[tuple[str, str]]:
        self._space.shelf.put(effects.results)
        return lost(self, effects)

    patch(MemoryCommit, "_lost", mutant)


def acknowledge_early(patch: Patch) -> None:
    """Forget what was received as soon as it was received."""
    end = Space.end

    def mutant(self: Space, session: Session) -> list[Entry]:
        end(self, session)
        return []

    patch(Space, "end", mutant)


def lease_forgotten(patch: Patch) -> None:
    """Never give back what a consumer held that fell silent."""
    patch(queues, "_count_losses", lambda _held: [])


def loss_not_counted(patch: Patch) -> None:
    patch(queues, "_count_losses", lambda held: held)


def recover_without_fence(patch: Patch) -> None:
    """Give a dead consumer's messages back, and let it commit them all the same."""

    def mutant(self: Space, session: Session) -> list[Entry]:
        self.sessions.pop(session.consumer_id, None)
        return list(session.holds.values())

    patch(Space, "end", mutant)


def crash_charged_to_all(patch: Patch) -> None:
    def mutant(held: list[Entry], _dead: DeadConsumer) -> list[Entry]:
        for entry in held:
            entry.crashes += 1
        return held

    patch(queues, "_charge", mutant)


def crash_charged_to_several(patch: Patch) -> None:
    def mutant(held: list[Entry], dead: DeadConsumer) -> list[Entry]:
        for entry in held:
            entry.crashes += entry.message.id in dead.running
        return held

    patch(queues, "_charge", mutant)


def verdict_forgotten(patch: Patch) -> None:
    charge = queues._charge
    patch(queues, "_charge", lambda held, dead: charge(held, replace(dead, verdict="")))


def delivered_early(patch: Patch) -> None:
    ripen = Line.ripen
    patch(Line, "ripen", lambda self, now: ripen(self, now + 1e6))


def delivered_twice(patch: Patch) -> None:
    receive = Space.receive

    def mutant(self: Space, session: Session, limit: int) -> list[Delivery]:
        deliveries = receive(self, session, limit)
        if len(session.holds) > 3:
            self.give_back(next(iter(session.holds.values())))
        return deliveries

    patch(Space, "receive", mutant)


def success_replaced(patch: Patch) -> None:
    put = Shelf.put

    def mutant(self: Shelf, records: Any) -> None:
        for task_id, kept in self._kept.items():
            self._kept[task_id] = Kept(kept.meta, "STARTED", kept.expires_at)
        put(self, records)

    patch(Shelf, "put", mutant)


def keep_ends_the_delivery(patch: Patch) -> None:
    perform = MemoryCommit._perform

    def mutant(self: MemoryCommit, effects: Effects) -> list[str]:
        keep = effects.ending is Ending.KEEP
        return perform(self, replace(effects, ending=Ending.ACK) if keep else effects)

    patch(MemoryCommit, "_perform", mutant)


def dead_letter_dropped(patch: Patch) -> None:
    patch(Space, "bury", lambda _self, _entry, _reason: None)


def give_back_keeps_the_hold(patch: Patch) -> None:
    def mutant(self: MemoryConsumer, deliveries: list[Delivery]) -> None:
        with self._space.lock:
            for delivery in deliveries:
                session = self._space.holds.get(delivery.tag)
                if session is not None:
                    self._space.give_back(session.holds[delivery.tag])

    patch(MemoryConsumer, "give_back", mutant)


def revocation_forgotten(patch: Patch) -> None:
    patch(Space, "is_revoked", lambda _self, _task_id, _now: False)


MUTANTS = [
    result_unfenced,
    follow_ups_unfenced,
    commit_in_two_steps,
    acknowledge_early,
    lease_forgotten,
    loss_not_counted,
    recover_without_fence,
    crash_charged_to_all,
    crash_charged_to_several,
    verdict_forgotten,
    delivered_early,
    delivered_twice,
    success_replaced,
    keep_ends_the_delivery,
    dead_letter_dropped,
    give_back_keeps_the_hold,
    revocation_forgotten,
]


@pytest.fixture
def stage() -> Iterator[Stage]:
    clock = FakeClock.running()
    url = f"memory://{new_id()}"
    stage = Stage(Backend(url, clock=clock, options={"clock": clock}, quiet=0.0, patience=0.2))
    yield stage
    stage.close()


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_every_mutant_is_caught(
    stage: Stage, mutate: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch.setattr)
    with pytest.raises((AssertionError, KeyError, ExceptionGroup)):
        play(stage, HISTORIES)
