"""Random histories against a model: whatever happens in whatever order, nothing is lost or forked.

Hypothesis plays publishers, consumers, deaths, lapses, zombies and administrators in any order. A
model of a few dictionaries says after each step where every accepted message must be:

    waiting (ready or delayed) ── held ── done
                                    └──── dead

and which results and follow-ups exist: exactly those of commits that were fresh. At the end of a
history all sessions close, and what the server still has must be what the model says.

Two things are left to the server. Which of several ready messages a consumer gets is not compared
(other tests do), and while several consumers share a queue one may be given less than there is,
because a server that pushes has handed it to another. A consumer that is alone must get all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from umbel.ids import new_id
from umbel.message import Delivery, Effects, Ending, ResultRecord
from umbel.servers.seams import Consumer, DeadConsumer
from umbel.states import FAILURE, RETRY, SUCCESS
from umbel.testing.contract.stage import LONG, Stage, Suite, T, eventually, ids, message

#: Steps of one history.
STEPS = 30
#: Consumers at the same time.
SESSIONS = 3

#: A history that fails is not made shorter: each attempt would wait for what does not come. Add
#: Phase.shrink here where that is worth the minutes.
PHASES = (Phase.generate,)
#: Seconds until the depth of a queue, which has no reason to be late, must be right.
PROMPTLY = 1.0

_picks = st.integers(0, 999)
_STATES = {
    Ending.ACK: SUCCESS,
    Ending.DEAD: FAILURE,
    Ending.KEEP: "PROGRESS",
    Ending.REQUEUE: RETRY,
}
_AFTER = {Ending.ACK: "done", Ending.DEAD: "dead", Ending.REQUEUE: "waiting"}


class ModelContract(Suite):
    """The model-based test. Seconds for a server with a fake clock, longer where time is real."""

    @pytest.mark.timeout(300)
    def test_any_history_loses_nothing_and_forks_nothing(self, stage: Stage) -> None:
        play(stage, stage.backend.histories)


def play(stage: Stage, histories: int) -> None:
    """Play so many random histories on this stage's server; raise what they find."""

    class Played(History):
        def __init__(self) -> None:
            super().__init__(stage)

    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=PHASES,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@dataclass(slots=True)
class Known:
    """What the model knows of an accepted message."""

    queue: str
    due_at: float
    state: str = "waiting"
    crashes: int = 0
    losses: int = 0
    #: It has been a suspect; a server may say so until it is known who was to blame.
    suspected: bool = False
    revoked: bool = False
    verdict: str = ""


@dataclass(slots=True)
class Session:
    """An open consumer and what it holds, by message id."""

    consumer_id: str
    consumer: Consumer
    queues: Sequence[str]
    holds: dict[str, Delivery] = field(default_factory=dict)


class History(RuleBasedStateMachine):
    """One history. The rules move the server and the model alike."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.queues: list[str] = []
        self.known: dict[str, Known] = {}
        self.results: dict[str, bytes] = {}
        self.final: set[str] = set()
        self.sessions: list[Session] = []
        #: All of this history, so that one that failed leaves nothing behind for the next.
        self.opened: list[Consumer] = []
        self.ended: list[str] = []
        self.renewed = 0
        #: Consumer ids and what they held once.
        self.zombies: list[tuple[str, Delivery]] = []
        self.last: list[Effects] = []
        self.commits = 0

    @initialize()
    def begin(self) -> None:
        self.queues = [self.stage.queue(max_priority=9) for _ in range(2)]
        self.consume(both=True, pick=0)

    # --- publishers

    @rule(count=st.integers(1, 5), pick=_picks, priority=st.sampled_from([0, 9]))
    def publish(self, count: int, pick: int, priority: int) -> None:
        self._publish(count, pick, priority=priority)

    @rule(count=st.integers(1, 2), pick=_picks)
    def publish_for_later(self, count: int, pick: int) -> None:
        self._publish(count, pick, not_before=self.stage.clock.now() + self.stage.short)

    def _publish(self, count: int, pick: int, *, priority: int = 0, not_before: float = 0) -> None:
        queue = self.queues[pick % 2]
        messages = [message(queue, priority=priority, not_before=not_before) for _ in range(count)]
        self.stage.publish(*messages)
        for each in messages:
            self.known[each.id] = Known(queue, not_before)

    # --- consumers

    @rule(both=st.booleans(), pick=_picks)
    def consume(self, both: bool, pick: int) -> None:  # noqa: FBT001 -- Hypothesis calls it by name
        if len(self.sessions) < SESSIONS:
            queues = self.queues if both else [self.queues[pick % 2]]
            self.sessions.append(self._open(queues, lease=LONG))

    def _open(self, queues: Sequence[str], *, lease: float) -> Session:
        session = Session(*self.stage.session(*queues, lease=lease), queues)
        self.opened.append(session.consumer)
        return session

    @rule(pick=_picks, limit=st.integers(1, 5))
    def receive(self, pick: int, limit: int) -> None:
        if not self.sessions:
            self.consume(both=True, pick=0)
        session = _choose(self.sessions, pick)
        if not self._ready(session):  # an empty receive is one step wasted
            self._publish(3, self.queues.index(session.queues[0]))
        self._receive(session, limit)

    def _ready(self, session: Session) -> int:
        """Return how many messages this session may receive."""
        now = self.stage.clock.now()
        waiting = (self.known[task_id] for task_id in self._in_state("waiting"))
        return sum(each.queue in session.queues and each.due_at <= now for each in waiting)

    def _receive(self, session: Session, limit: int) -> None:
        ready = self._ready(session)
        if ready and len(self.sessions) <= 1:
            got = self.stage.take(session.consumer, min(limit, ready))
        else:
            got = session.consumer.receive(limit, timeout=self.stage.backend.quiet if ready else 0)
        assert len(got) <= limit
        for delivery in got:
            self._hold(session, delivery)

    def _hold(self, session: Session, delivery: Delivery) -> None:
        known = self.known[delivery.message.id]
        precision = self.stage.transport.capabilities.delay_precision
        assert known.state == "waiting", f"{delivery.message.id} is {known.state}"
        assert known.due_at <= self.stage.clock.now() + precision
        assert delivery.queue == known.queue
        assert (delivery.crashes, delivery.losses) == (known.crashes, known.losses)
        assert (delivery.revoked, delivery.verdict) == (known.revoked, known.verdict)
        assert known.suspected or not delivery.suspect
        known.state = "held"
        session.holds[delivery.message.id] = delivery
        self._forget_former_hold(session, delivery.message.id)

    def _forget_former_hold(self, session: Session, task_id: str) -> None:
        """Leave it open whether a session that holds a message again may use its old delivery."""
        former = (session.consumer_id, task_id)
        self.zombies = [each for each in self.zombies if (each[0], each[1].message.id) != former]
        self.last = [
            each for each in self.last if each.delivery and each.delivery.message.id != task_id
        ]

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_picks, count=st.integers(1, 3))
    def give_back(self, pick: int, count: int) -> None:
        session = _choose(self._holders(), pick)
        deliveries = list(session.holds.values())[:count]
        session.consumer.give_back(deliveries)
        for delivery in deliveries:
            self._leave(session, delivery, "waiting")

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_picks)
    def close(self, pick: int) -> None:
        session = _choose(self._holders(), pick)
        session.consumer.close()
        self._end(session)

    @precondition(lambda self: len(self.ended) > self.renewed)
    @rule()
    def renew(self) -> None:
        self.renewed = len(self.ended)
        living = [each.consumer_id for each in self.sessions]
        lost = self.stage.transport.renew([*living, *self.ended], lease=LONG)
        assert sorted(lost) == sorted(self.ended)

    # --- deaths

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_picks, running=st.integers(0, 3), verdict=st.sampled_from(["", "", "terminated"]))
    def die(self, pick: int, running: int, verdict: str) -> None:
        session = _choose(self._holders(), pick)
        guilty = list(session.holds)[:running]
        dead = DeadConsumer(session.consumer_id, tuple(guilty), verdict)
        assert self.stage.transport.recover([dead]) == len(session.holds)
        for task_id in guilty:
            if verdict:
                self.known[task_id].verdict = verdict
            elif len(guilty) == 1:
                self.known[task_id].crashes += 1
            else:
                self.known[task_id].suspected = True
        self._end(session)

    @rule(limit=st.integers(1, 3))
    def lapse(self, limit: int) -> None:
        """Let a consumer of its own receive and fall silent."""
        session = self._open(self.queues, lease=self.stage.short)
        self._receive(session, limit)
        self.stage.lapse(self.stage.short * 1.1)
        assert self.stage.transport.recover() == len(session.holds)
        for task_id in session.holds:
            self.known[task_id].losses += 1
        self._end(session)

    def _end(self, session: Session) -> None:
        for delivery in list(session.holds.values()):
            self._leave(session, delivery, "waiting")
        self.ended.append(session.consumer_id)
        if session in self.sessions:
            self.sessions.remove(session)

    def _leave(self, session: Session, delivery: Delivery, state: str) -> None:
        del session.holds[delivery.message.id]
        self.known[delivery.message.id].state = state
        self.zombies.append((session.consumer_id, delivery))

    # --- commits

    @precondition(lambda self: self._in_state("held"))
    @rule(
        choices=st.lists(
            st.tuples(_picks, st.sampled_from(list(Ending)), st.integers(-1, 2)),
            min_size=1,
            max_size=3,
        )
    )
    def commit(self, choices: list[tuple[int, Ending, int]]) -> None:
        """Commit what is held and, mixed with it, what was held once."""
        holds = [each for session in self.sessions for each in session.holds.values()]
        pool = [*holds, *(delivery for _, delivery in self.zombies[-4:])]
        chosen = {pick % len(pool): (ending, count) for pick, ending, count in choices if pool}
        self.last = [self._effects(pool[at], *chosen[at]) for at in chosen]
        self._commit(self.last)

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_picks, follow_ups=st.integers(0, 2))
    def succeed(self, pick: int, follow_ups: int) -> None:
        self.commit([(pick, Ending.ACK, follow_ups)])

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_picks, follow_ups=st.permutations([0, 2]))
    def report_twice_and_keep(self, pick: int, follow_ups: list[int]) -> None:
        for each in follow_ups:
            self.commit([(pick, Ending.KEEP, each)])

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_picks)
    def bury(self, pick: int) -> None:
        self.commit([(pick, Ending.DEAD, 0)])

    @precondition(lambda self: self.last)
    @rule()
    def commit_the_same_again(self) -> None:
        """Do as after a ConnectionLost; effects that keep their delivery may fork, others not."""
        again = [each for each in self.last if each.ending is not Ending.KEEP]
        self.last = []
        self._commit(again)

    def _holders(self) -> list[Session]:
        return [session for session in self.sessions if session.holds]

    def _effects(self, delivery: Delivery, ending: Ending, follow_ups: int) -> Effects:
        """Return effects with a result and messages to publish; -1 = one that leads nowhere."""
        self.commits += 1
        task_id = delivery.message.id
        state = _STATES[ending] if follow_ups < 2 else SUCCESS  # final before its delivery ends
        record = self.stage.record(task_id, f"{self.commits} of {task_id}".encode(), state)
        where = [self.queues[self.commits % 2]] * follow_ups if follow_ups >= 0 else ["nowhere"]
        messages = tuple(message(queue, id=new_id()) for queue in where)
        return Effects(delivery, ending, "its reason", (record,), messages)

    def _commit(self, effects: list[Effects]) -> None:
        owners = [self._owner(each.delivery) for each in effects]
        report = self.stage.commit(*effects)
        pairs = list(zip(effects, owners, strict=True))
        assert list(report.stale) == [each.delivery for each, owner in pairs if owner is None]
        lost = [each for each, owner in pairs if owner is not None and _leads_nowhere(each)]
        assert [each.effects for each in report.refused] == lost
        for each, owner in pairs:
            if owner is not None and each.delivery is not None and not _leads_nowhere(each):
                self._perform(owner, each.delivery, each)

    def _owner(self, delivery: Delivery | None) -> Session | None:
        assert delivery is not None
        for session in self.sessions:
            if session.holds.get(delivery.message.id) is delivery:
                return session
        return None

    def _perform(self, owner: Session, delivery: Delivery, effects: Effects) -> None:
        for each in effects.publish:
            self.known[each.id] = Known(each.routing_key, 0.0)
        for record in effects.results:
            self._store(record)
        if effects.ending is not Ending.KEEP:
            self._leave(owner, delivery, _AFTER[effects.ending])

    def _store(self, record: ResultRecord) -> None:
        if record.task_id not in self.final:
            self.results[record.task_id] = record.meta
        if record.state == SUCCESS:
            self.final.add(record.task_id)

    # --- administrators

    @precondition(lambda self: self._in_state("waiting") and self.stage.server.ledger)
    @rule(pick=_picks)
    def revoke(self, pick: int) -> None:
        task_id = _choose(self._in_state("waiting"), pick)
        self.stage.ledger.revoke([task_id], expires_in=100 * LONG)
        self.known[task_id].revoked = True

    @precondition(lambda self: self._in_state("dead") and self.stage.server.ledger)
    @rule(pick=_picks)
    def requeue_a_dead_letter(self, pick: int) -> None:
        task_id = _choose(self._in_state("dead"), pick)
        (letter,) = self.stage.letters(task_id)
        assert self.stage.ledger.requeue([letter.key]) == 1
        known = self.known[task_id]
        known.state, known.crashes, known.losses, known.verdict = "waiting", 0, 0, ""

    # --- what must always be so

    def _in_state(self, state: str) -> list[str]:
        return [task_id for task_id, known in self.known.items() if known.state == state]

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        for queue in self.queues:
            self._await_agreement(queue)

    def _await_agreement(self, queue: str) -> None:
        patience = min(PROMPTLY, self.stage.patience)
        eventually(lambda: self._agree(queue), f"depth of {queue}", patience=patience)

    def _agree(self, queue: str) -> bool:
        depth = self.stage.transport.depth([queue])[queue]
        now = self.stage.clock.now()
        here = [each for each in self.known.values() if each.queue == queue]
        ready = sum(each.state == "waiting" and each.due_at <= now for each in here)
        delayed = sum(each.state == "waiting" and each.due_at > now for each in here)
        held = sum(each.state == "held" for each in here)
        return depth.estimate or (depth.ready, depth.delayed, depth.held) == (ready, delayed, held)

    @invariant()
    def results_are_those_of_fresh_commits(self) -> None:
        if self.known:
            assert self.stage.results(*self.known) == self.results

    def teardown(self) -> None:
        while self.opened:
            self.opened.pop().close()
        for session in list(self.sessions):
            self._end(session)
        self.stage.lapse(self.stage.short * 1.1)
        left = self.stage.drain(*self.queues)
        assert sorted(ids(left)) == sorted(self._in_state("waiting"))
        if self.stage.server.ledger is not None:
            letters = self.stage.letters(*self.known)
            buried = sorted(letter.message.id for letter in letters)
            assert buried == sorted(self._in_state("dead"))
            self.stage.ledger.drop([letter.key for letter in letters])


def _leads_nowhere(effects: Effects) -> bool:
    return any(each.routing_key == "nowhere" for each in effects.publish)


def _choose(items: Sequence[T], pick: int) -> T:
    return items[pick % len(items)]
