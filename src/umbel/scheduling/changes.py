"""``app.schedule``: looking at schedules, and changing them while schedulers run.

What is added is kept on the broker's server (or the companion's), so it holds for every scheduler,
now and later; the one that leads notices a change within a second.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Unpack

from umbel.bridge import ResultBridge
from umbel.canvas.signature import Signature
from umbel.clock import Clock
from umbel.exceptions import ImproperlyConfigured, TransportError, UmbelError
from umbel.opened import Servers, clock_of
from umbel.options import CallOptions, zone_of
from umbel.result import AsyncResult
from umbel.schedules import ScheduleError
from umbel.schedules.local import machine_zone
from umbel.scheduling.entry import RULES, Entry, entry_from
from umbel.scheduling.given import PAUSED, RESUMED, Entries, EntrySource, Listed, gather
from umbel.scheduling.outlook import Run, following_of, next_runs
from umbel.scheduling.state import State
from umbel.servers.timetable import Timetable
from umbel.spelling import suggestion
from umbel.states import PENDING
from umbel.wire.names import BEAT

#: Attempts to change an entry that others change at the same time.
_ATTEMPTS = 20


class Application(Protocol):
    """What schedules need of an application."""

    main: str | None

    @property
    def conf(self) -> Any:
        """The settings."""
        ...

    @property
    def bridge(self) -> ResultBridge:
        """What reads results."""
        ...

    def servers(self) -> Servers:
        """Return the opened servers."""
        ...

    def finalize(self) -> None:
        """Tell those who add periodic tasks."""
        ...

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Send a task."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry as one looks at it."""

    entry: Entry
    #: "code" or "added".
    origin: str
    #: How far it has come; None = no scheduler has seen it.
    state: State | None
    #: When it is sent next; None = never, or it is paused.
    next_at: float | None
    #: The state of the last run's task; "" = there is none, or nobody can know.
    outcome: str = ""


class ScheduleChanges:
    """``app.schedule``. Any thread."""

    def __init__(self, app: Application) -> None:
        self._app = app
        #: What ``add_periodic_task`` declared, by name; not changed once a scheduler runs.
        self.declared: dict[str, Any] = {}
        #: One's own source of entries, if a scheduler was started with it.
        self.source: EntrySource | None = None

    def declare(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Declare an entry in the code; see ``Umbel.add_periodic_task``."""
        rest = dict(options or {})
        rules = {rule: rest.pop(rule) for rule in RULES if rule in rest}
        call = sig if isinstance(sig, Signature) else Signature(sig)
        key = name or repr(call)
        self.declared[key] = entry_from(
            key,
            call.task,
            schedule,
            args=tuple(args) or call.args,
            kwargs=kwargs or call.kwargs,
            options={**call.options, **rest},
            **rules,
        )
        return key

    # --- changing

    def add(self, name: str, task: Any, schedule: Any, **rest: Any) -> Entry:
        """Add an entry: a task or its name, and seconds, ``crontab(…)`` or another schedule.

        ``args``, ``kwargs`` and ``options`` are those of apply_async; ``missed``, ``limit``,
        ``overlap``, ``deadline`` and ``paused`` its rules. Raises ScheduleError if it makes no
        sense, has no run ahead, or there is an entry of that name.
        """
        entry = entry_from(name, task, schedule, **rest)
        self._refuse_code(name, "is declared in the code")
        self._check_ahead(entry)
        if not self._timetable().put(self.table, name, entry.text, before=None):
            raise ScheduleError(f"there is an entry {name!r} already: update or remove it")
        return entry

    def update(self, name: str, **changes: Any) -> Entry:
        """Change some of what ``add`` takes. Another schedule begins anew; else its runs go on."""
        self._refuse_code(name, "is declared in the code: change it there")

        def change(text: str) -> Entry:
            before = Entry.from_text(name, text)
            given = {field: getattr(before, field) for field in Entry.__slots__ if field != "name"}
            changed = entry_from(name, **{**given, **changes})
            if changed.schedule != before.schedule:
                self._check_ahead(changed)
            return changed

        return self._change(name, change)

    def pause(self, name: str) -> None:
        """Send it no more until it is resumed."""
        if name in self._code():
            self._keep_code(name, paused=True)
        else:
            self._change(name, lambda text: replace(Entry.from_text(name, text), paused=True))

    def resume(self, name: str) -> None:
        """Send it again; what came due while it was paused is not made up for."""
        if name in self._code():
            self._keep_code(name, paused=False)
        else:
            self._change(name, lambda text: replace(Entry.from_text(name, text), paused=False))

    def remove(self, name: str) -> None:
        """Delete an entry that was added, and what is known of its runs."""
        if name in self._code():
            raise ScheduleError(
                f"entry {name!r} is declared in the code: pause it, or delete it there"
            )
        timetable = self._timetable()
        for _ in range(_ATTEMPTS):
            text = self._kept(name)
            if timetable.put(self.table, name, None, before=text):
                return
        raise _busy(name)

    def run_now(self, name: str) -> AsyncResult[Any]:
        """Send it once, now, beside its schedule; also one that is paused."""
        entry = self._listed(name).entry
        options: Any = {**entry.options}
        options["headers"] = {**(options.get("headers") or {}), BEAT: True}
        return self._app.send_task(entry.task, entry.args, entry.kwargs, **options)

    # --- looking

    def list(self) -> Sequence[Shown]:
        """Return all entries, by name, with how far they have come."""
        timetable = self._app.servers().broker.timetable
        kept = {} if timetable is None else timetable.progress(self.table)
        states = {name: State.read(each) for name, each in kept.items()}
        outcomes = self._outcomes([each.task_id for each in states.values() if each])
        entries = self.entries().by_name
        return [self._shown(entries[name], states.get(name), outcomes) for name in sorted(entries)]

    def outlook(self, name: str, *, count: int = 10) -> Sequence[Run]:
        """Return the next runs of an entry, each with the reason if it is irregular."""
        entry = self._listed(name).entry
        timetable = self._app.servers().broker.timetable
        kept = {} if timetable is None else timetable.progress(self.table, [name])
        state = self._state(entry, State.read(kept[name]) if name in kept else None)
        return [*next_runs(entry, state, now=self.clock.now(), zone=self.zone, count=count)]

    def leader(self) -> str | None:
        """Return who sends what is due, or None: nobody does, or the server does not know."""
        timetable = self._app.servers().broker.timetable
        return None if timetable is None else timetable.leader(self.table)

    def entries(self) -> Entries:
        """Return the entries of the code and those that were added."""
        timetable = self._app.servers().broker.timetable
        kept = {} if timetable is None else timetable.entries(self.table)
        deadline = self._app.conf.beat_cron_starting_deadline
        return gather(self._code(), kept, starting_deadline=deadline)

    @property
    def table(self) -> str:
        """The name of the timetable: schedulers of one name send its entries once among them."""
        return f"beat:{self._app.conf.beat_name or self._app.main or ''}"

    @property
    def zone(self) -> dt.tzinfo:
        """The zone of schedules that name none."""
        return zone_of(self._app.conf.current().values) or machine_zone()

    @property
    def clock(self) -> Clock:
        """The clock that tells what is due."""
        return clock_of(self._app.conf.current().values)

    # --- parts

    def _code(self) -> Mapping[str, Any]:
        self._app.finalize()
        given = {} if self.source is None else self.source.entries()
        return {**given, **self.declared, **self._app.conf.beat_schedule}

    def _refuse_code(self, name: str, why: str) -> None:
        if name in self._code():
            raise ScheduleError(f"entry {name!r} {why}")

    def _timetable(self) -> Timetable:
        broker = self._app.servers().broker
        if broker.timetable is None:
            raise ImproperlyConfigured(
                f"schedules that change need a ledger, and {broker.display_url} has none: set "
                "ledger_url to Redis or a SQLite file, for beat and the workers too"
            )
        return broker.timetable

    def _kept(self, name: str) -> str:
        kept = self._timetable().entries(self.table)
        if name not in kept:
            hint = suggestion(name, [*kept, *self._code()])
            raise ScheduleError(f"there is no entry {name!r}{hint}")
        return kept[name]

    def _listed(self, name: str) -> Listed:
        entries = self.entries().by_name
        if name not in entries:
            raise ScheduleError(f"there is no entry {name!r}{suggestion(name, entries)}")
        return entries[name]

    def _change(self, name: str, change: Any) -> Entry:
        timetable = self._timetable()
        for _ in range(_ATTEMPTS):
            text = self._kept(name)
            entry: Entry = change(text)
            if timetable.put(self.table, name, entry.text, before=text):
                return entry
        raise _busy(name)

    def _keep_code(self, name: str, *, paused: bool) -> None:
        timetable = self._timetable()
        for _ in range(_ATTEMPTS):
            text = timetable.entries(self.table).get(name)
            wanted = PAUSED if paused else RESUMED
            if text == wanted or timetable.put(self.table, name, wanted, before=text):
                return
        raise _busy(name)

    def _check_ahead(self, entry: Entry) -> None:
        state = State.begin(self.clock.now(), entry.rhythm)
        if following_of(entry, state, self.zone)(state.due_at) is None:
            raise ScheduleError(f"entry {entry.name!r}: {entry.schedule} has no run ahead")

    def _state(self, entry: Entry, state: State | None) -> State:
        if state is None or state.rhythm != entry.rhythm:
            return State.begin(self.clock.now(), entry.rhythm)
        return state

    def _outcomes(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the states of tasks as far as they can be known, having asked for all at once."""
        bridge, wanted = self._app.bridge, [task_id for task_id in task_ids if task_id]
        if not wanted or not bridge.store.shared:
            return {}
        try:
            stored = bridge.store.get(wanted)
        except TransportError:
            return {}
        found = {task_id: _status(bridge, each) for task_id, each in stored.items()}
        return dict.fromkeys(wanted, PENDING) | found

    def _shown(self, listed: Listed, state: State | None, outcomes: Mapping[str, str]) -> Shown:
        entry, runs = listed.entry, list[Run]()
        if not entry.paused:
            known = self._state(entry, state)
            runs += next_runs(entry, known, now=self.clock.now(), zone=self.zone, count=1)
        outcome = outcomes.get(state.task_id, "") if state else ""
        return Shown(entry, listed.origin, state, runs[0].sent_at if runs else None, outcome)


def _status(bridge: ResultBridge, stored: bytes) -> str:
    try:
        return str(bridge.decode(stored)["status"])
    except UmbelError:  # it was stored under other rules, or is damaged
        return ""


def _busy(name: str) -> ScheduleError:
    return ScheduleError(f"entry {name!r} is changed by others all the time: try again")
