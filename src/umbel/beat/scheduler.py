"""The loop that sends what is due. Start as many as you like, in ``umbel beat`` or in workers.

**Who leads.** All try to take the same lease; who has it leads, the others try again every third
of it. The leader renews as often. If it dies or is stopped, its lease ends and another takes over,
with all that is known of past runs: it is kept beside the messages.

**Why nothing is sent twice.** A tick is one step of the server (``Timetable.advance``): it stores
the message and moves the entry, if the leader's token is the newest and the entry is where the
leader believes it to be. A leader that slept past its lease has an old token; a step that is
repeated because its answer was lost finds the entry moved. Besides, a tick's id follows from the
entry and its due time.

**Why nothing is missing.** An entry moves by nothing else. Whatever came due meanwhile, in a
takeover or while all was down, lies between where it is and now, and is dealt with by the entry's
policy. What is not sent is counted and logged.

**What it costs.** A heap gives what is due next; nothing looks at all entries, except when the lead
is taken or a change of the schedule (one number, asked every second) makes it read them again.

**The wall clock may jump.** Ahead: what came due in the jump is late, and a matter of the policy.
Back: due times that were dealt with do not come again, so entries wait until the clock is where it
was; if that is more than a day, they begin anew, and the log says so.

Rejected: a lock around the whole of sending (who sleeps with it in hand sends twice when it wakes);
the last run's time as a file or a row beside the queue (two steps: a death in between doubles or
loses a tick).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from umbel import telemetry
from umbel.app import Umbel
from umbel.beat.agenda import Agenda
from umbel.beat.lead import Lead, lead_and_timetable
from umbel.beat.sending import Sending, Step, moved
from umbel.beat.source import source_of
from umbel.calling import tell_published
from umbel.clock import Clock
from umbel.exceptions import TransportError
from umbel.ids import new_id
from umbel.scheduling.entry import Entry
from umbel.scheduling.state import State
from umbel.servers.timetable import Progress, Timetable

logger = logging.getLogger("umbel.beat")

#: Ticks of one round trip.
BATCH = 500
#: Seconds until an outage is tried to be over.
PAUSE = 0.5
#: Seconds by which the clock may have been wrong; then entries begin anew.
FAR_AHEAD = 86400.0
#: Seconds until a change of the schedule is noticed, unless ``beat_max_loop_interval`` says less.
LOOK = 1.0


@dataclass(frozen=True, slots=True)
class SchedulerPlan:
    """How a scheduler works."""

    #: The name of the timetable.
    table: str
    #: Who it is, for people.
    name: str
    #: Seconds until another takes over from one that died.
    lease: float
    #: Seconds between two looks at whether the schedule was changed.
    look: float
    #: Seconds from which on a run that is sent late is told of.
    late: float


class Scheduler:
    """Owned by the thread in ``run``; ``wake`` and ``stop`` may be called from any."""

    def __init__(
        self,
        app: Umbel,
        plan: SchedulerPlan,
        *,
        lead: Lead,
        timetable: Timetable,
        sending: Sending,
        clock: Clock,
    ) -> None:
        self._app = app
        self._plan = plan
        self._lead = lead
        self._timetable = timetable
        self._sending = sending
        self._clock = clock
        self._agenda = Agenda(app.schedule.zone)
        self._woken = threading.Event()
        self._stopping = False
        #: The token while it leads.
        self._token: int | None = None
        self._seen: tuple[int, object] | None = None
        self._told: frozenset[str] = frozenset()
        # Monotonic times.
        self._renew_at = 0.0
        self._look_at = 0.0
        self._down_since: float | None = None
        self._turned_at = clock.monotonic()
        #: What the wall clock shows when the monotonic one is at zero.
        self._offset = clock.now() - clock.monotonic()

    @property
    def leads(self) -> bool:
        """Whether it leads, as far as it knows."""
        return self._token is not None

    @property
    def silence(self) -> float:
        """Seconds since its last turn: many, if something holds it up. Any thread."""
        return self._clock.monotonic() - self._turned_at

    def wake(self) -> None:
        """Make it look now. Any thread, signal handlers too."""
        self._woken.set()

    def stop(self) -> None:
        """End after the present turn."""
        self._stopping = True
        self._woken.set()

    def run(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Send what is due until stopped, or ``goes_on``, asked every second, says no."""
        while not self._stopping and goes_on():
            self._woken.clear()
            try:
                wait = self.turn()
            # A fault of a source, a signal's receiver or ours ends no beat.
            except Exception:
                logger.exception("A turn failed; trying again")
                self._begin()
                wait = PAUSE
            if not self._stopping:
                self._woken.wait(min(wait, 1.0))
        self._leave()

    def turn(self) -> float:
        """Do what is to be done now; return the seconds until there is more."""
        self._turned_at = self._clock.monotonic()
        try:
            wait = self._turn()
        except TransportError as error:
            self._begin()  # what took place and was not answered is known to the server
            if self._down_since is None:
                self._down_since = self._clock.monotonic()
                logger.error("The broker does not answer, nothing is sent: %s", error)  # noqa: TRY400 -- an outage, no bug
            return PAUSE
        if self._down_since is not None:
            length = self._clock.monotonic() - self._down_since
            logger.warning("The broker answers again after %.1fs", length)
            self._down_since = None
        return wait

    def _turn(self) -> float:
        if self._clock.monotonic() >= self._renew_at:
            self._take()
        if self._token is None:
            return self._renew_at - self._clock.monotonic()
        self._notice_the_clock()
        if self._clock.monotonic() >= self._look_at:
            self._look()
        self._send_due()
        next_at, now = self._agenda.next_at(), self._clock.now()
        waits = [self._renew_at, self._look_at]
        wait = min(waits) - self._clock.monotonic()
        return max(0.0, wait if next_at is None else min(wait, next_at - now))

    def _notice_the_clock(self) -> None:
        before, self._offset = self._offset, self._clock.now() - self._clock.monotonic()
        if self._offset < before - FAR_AHEAD:
            logger.warning("The clock was put back by %.0fs", before - self._offset)
            self._begin()

    # --- the lead

    def _take(self) -> None:
        token = self._lead.take()
        self._renew_at = self._clock.monotonic() + self._plan.lease / 3
        if token == self._token:
            return
        if token is None:
            self._lose()
            return
        self._token = token
        self._begin()
        logger.info("%s leads: it sends what is due", self._plan.name)
        telemetry.emit("beat.led", name=self._plan.name, token=token)

    def _begin(self) -> None:
        """Forget what there is, and read it anew."""
        self._agenda = Agenda(self._app.schedule.zone)
        self._seen, self._look_at = None, 0.0

    def _lose(self) -> None:
        if self._token is not None:
            logger.warning("%s leads no longer: another does", self._plan.name)
            telemetry.emit("beat.lost", name=self._plan.name)
        self._token = None

    def _leave(self) -> None:
        try:
            self._lead.leave()
        except TransportError as error:
            logger.warning("The lead could not be given up; it will expire: %s", error)
        self._token = None

    # --- what there is

    def _look(self) -> None:
        """Read the entries again if they were changed."""
        self._look_at = self._clock.monotonic() + self._plan.look
        source = self._app.schedule.source
        seen = (
            self._timetable.revision(self._plan.table),
            None if source is None else source.revision(),
        )
        if seen != self._seen:
            self._read()
            self._seen = seen

    def _read(self) -> None:
        entries = self._app.schedule.entries()
        self._tell_problems(entries.problems)
        given = {name: listed.entry for name, listed in entries.by_name.items()}
        for name in [each for each in self._agenda.planned if each not in given]:
            self._agenda.drop(name)
        planned = self._agenda.planned
        changed = [
            entry
            for name, entry in given.items()
            if name not in planned or planned[name].entry != entry
        ]
        states = self._states(changed, len(given))
        now = self._clock.now()
        steps: list[Step] = []
        for entry in changed:
            known = states.get(entry.name)
            state = _state_now(entry, known, now)
            self._agenda.plan(entry, known or state)
            if state != known:
                steps.append(moved(planned[entry.name], known, state))
        self._perform(steps)

    def _states(self, entries: Sequence[Entry], of: int) -> dict[str, State]:
        names = None if len(entries) == of else [entry.name for entry in entries]
        kept = self._timetable.progress(self._plan.table, names)
        return {name: _read_state(progress) for name, progress in kept.items()}

    def _tell_problems(self, problems: Sequence[str]) -> None:
        for problem in problems:
            if problem not in self._told:
                logger.error("%s", problem)
        self._told = frozenset(problems)

    # --- sending

    def _send_due(self) -> None:
        while self._token is not None and not self._stopping:
            now = self._clock.now()
            due = self._agenda.due(now, BATCH)
            if not due:
                return
            late = [now - planned.send_at for planned in due]
            steps: list[Step] = []
            for planned in due:
                made = [*self._sending.steps(planned, now)]
                if not made:  # the clock was put back
                    self._agenda.move(planned, planned.state)
                steps += made
            self._perform(steps)
            self._tell_late(len(due), max(late))
            if self._clock.monotonic() >= self._renew_at:
                self._take()

    def _perform(self, steps: Sequence[Step]) -> None:
        """Have the server take steps."""
        for start in range(0, len(steps), BATCH):
            batch = steps[start : start + BATCH]
            refused = self._take_steps(batch)
            if refused:  # the server may have forgotten a queue
                self._sending.declare_again()
                refused = self._take_steps([step for step, _ in refused])
            self._take_steps([self._sending.refused(step, why) for step, why in refused])

    def _take_steps(self, steps: Sequence[Step]) -> list[tuple[Step, str]]:
        """Have the server take steps; return those that it refuses, and why."""
        if not steps or self._token is None:
            return []
        ticks = [step.tick for step in steps]
        report = self._timetable.advance(self._plan.table, ticks, token=self._token)
        if not report.leads:
            self._lose()
            return []
        passed = {id(tick) for tick in report.passed}
        reasons = {id(tick): why for tick, why in report.refused}
        done = [each for each in steps if id(each.tick) not in passed | reasons.keys()]
        for step in done:
            self._agenda.move(step.planned, step.state)
        tell_published([step.tick.message for step in done if step.tick.message is not None])
        for step in steps:
            if id(step.tick) in passed:
                self._catch_up_with(step)
        return [(each, reasons[id(each.tick)]) for each in steps if id(each.tick) in reasons]

    def _catch_up_with(self, step: Step) -> None:
        """Go on from what the server knows: somebody has dealt with this, maybe we ourselves."""
        name = step.planned.entry.name
        kept = self._timetable.progress(self._plan.table, [name])
        if name in kept:
            self._agenda.move(step.planned, _read_state(kept[name]))
        else:
            self._agenda.drop(name)
            self._seen = None  # it was removed, and maybe added anew

    def _tell_late(self, count: int, late: float) -> None:
        telemetry.emit("beat.sent", count=count, late=late)
        if late > self._plan.late:
            logger.warning("%d runs were sent up to %.1fs late", count, late)


def _read_state(kept: Progress) -> State:
    return State.read(kept) or State(kept.due_at, kept.due_at, "")


def _state_now(entry: Entry, known: State | None, now: float) -> State:
    """Return from which state an entry goes on."""
    if known is None:
        return replace(State.begin(now, entry.rhythm), paused=entry.paused)
    if known.rhythm != entry.rhythm:
        return known.begun_anew(now, entry.rhythm, "its schedule was changed")
    if known.due_at > now + FAR_AHEAD:
        ahead = known.due_at - now
        logger.warning("%s: its last run is %.0fs ahead of the clock", entry.name, ahead)
        return known.begun_anew(now, entry.rhythm, "the clock was put back")
    if known.paused and not entry.paused:
        return known.resumed(now)
    return replace(known, paused=entry.paused)


def scheduler_for(app: Umbel, name: str) -> Scheduler:
    """Return a scheduler of this application; nothing is connected yet."""
    app.schedule.source = source_of(app, app.conf.beat_scheduler)
    conf, table = app.conf, app.schedule.table
    opened = app.servers()
    holder = f"{name} (pid {os.getpid()}, {new_id()[-6:]})"
    lead, timetable = lead_and_timetable(opened, table, holder, lease=conf.beat_lease)
    plan = SchedulerPlan(
        table=table,
        name=name,
        lease=conf.beat_lease,
        look=min(conf.beat_max_loop_interval or LOOK, LOOK * 60),
        late=conf.beat_late_after,
    )
    sending = Sending(app, opened, table)
    clock = app.schedule.clock
    return Scheduler(app, plan, lead=lead, timetable=timetable, sending=sending, clock=clock)
