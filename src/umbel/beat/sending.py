"""From due times to ticks: messages, overlap, and what is recorded."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from umbel.app import Umbel
from umbel.beat.agenda import Planned
from umbel.canvas.plan import joins_expire
from umbel.exceptions import ConnectionLost
from umbel.message import Message
from umbel.opened import Servers
from umbel.routing import Route
from umbel.scheduling.policy import Decision, decide
from umbel.scheduling.state import State
from umbel.servers.timetable import Tick
from umbel.wire.names import BEAT

logger = logging.getLogger("umbel.beat")

#: Namespace of the ids of ticks.
_TICKS = uuid.UUID("0b8a8a8e-6a0e-4d7a-9d53-5e6c2f0d7c11")
#: Seconds after which the last run, if it left no result, is looked for among the messages.
LOOK_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """A tick, and the state that its entry is in once it is dealt with."""

    planned: Planned
    state: State
    tick: Tick


class Sending:
    """Makes steps. Owned by the scheduler's thread."""

    def __init__(self, app: Umbel, opened: Servers, table: str) -> None:
        self._app = app
        self._servers = opened
        self._table = table
        #: Those whose queues exist, by what they need.
        self._routes: dict[Any, Route] = {}

    def steps(self, planned: Planned, now: float) -> Iterator[Step]:
        """Yield what follows from what is due of an entry; nothing if nothing is."""
        decision = decide(planned.entry, planned.following, after=planned.state.due_at, now=now)
        if decision is None:
            return
        if decision.missed:
            self._tell_missed(planned, decision)
        state = replace(planned.state, missed=planned.state.missed + decision.missed, note="")
        overlaps = bool(decision.send) and self._overlaps(planned, now)
        for due in () if overlaps else decision.send:
            step = self._send(planned, state, due, now)
            yield step
            state = step.state
        if state.due_at != decision.dealt:
            note = "the last run still waits or runs" if overlaps else "missed"
            skipped = len(decision.send) if overlaps else 0
            after = replace(state, due_at=decision.dealt, missed=state.missed + skipped, note=note)
            if overlaps:
                logger.info("%s: not sent, the last run still waits or runs", planned.entry.name)
            yield moved(planned, state, after)

    def refused(self, step: Step, why: str) -> Step:
        """Return the step that leaves a due time whose message cannot be sent."""
        name = step.planned.entry.name
        logger.error("%s: the run due at %s cannot be sent: %s", name, step.state.due_at, why)
        before = step.planned.state
        state = replace(
            before, due_at=step.state.due_at, missed=before.missed + 1, note=f"not sent: {why:.200}"
        )
        return Step(step.planned, state, Tick(name, step.tick.after, state.due_at, state.record))

    def _send(self, planned: Planned, state: State, due: float, now: float) -> Step:
        name, task_id = planned.entry.name, tick_id(self._table, planned.entry.name, due)
        sent = replace(state, due_at=due, sent_at=now, task_id=task_id, runs=state.runs + 1)
        try:
            message = self._message(planned, task_id)
        except ConnectionLost:
            raise
        except Exception as error:  # noqa: BLE001 -- routers and arguments are users': one entry's fault stops no other
            unsent = Step(planned, sent, Tick(name, state.due_at, due, ""))
            return self.refused(unsent, f"{type(error).__name__}: {error}")
        return Step(planned, sent, Tick(name, state.due_at, due, sent.record, message))

    def _message(self, planned: Planned, task_id: str) -> Message:
        entry = planned.entry
        options: dict[str, Any] = {**entry.options, "task_id": task_id}
        options["headers"] = {**(options.get("headers") or {}), BEAT: True}
        if entry.overlap == "skip":
            options["ignore_result"] = False  # its result tells that it has ended
        elif not self._servers.results.shared:  # it would come to us, who have no use for it
            options.setdefault("ignore_result", True)
        call = self._app.call_for(entry.task)
        message, route = call.prepared(entry.args, entry.kwargs, options, request=None)
        self._declare(route)
        return message

    def _declare(self, route: Route) -> None:
        if route.needs not in self._routes:
            self._servers.broker.transport.declare(route.topology)
            self._routes[route.needs] = route

    def declare_again(self) -> None:
        """Make exist again what messages were sent through so far."""
        for route in self._routes.values():
            self._servers.broker.transport.declare(route.topology)

    def _overlaps(self, planned: Planned, now: float) -> bool:
        """Tell whether the last run still waits or runs, as far as one can know."""
        last = planned.state
        if planned.entry.overlap == "allow" or not last.task_id or self._has_ended(last.task_id):
            return False
        transport, age = self._servers.broker.transport, now - last.sent_at
        if age < LOOK_AFTER or not transport.capabilities.finds:
            expires = joins_expire(self._app.conf.current().values)
            return expires is None or age < expires
        found = transport.find(last.task_id, transport.queues())
        return bool(found) and not self._has_ended(last.task_id)

    def _has_ended(self, task_id: str) -> bool:
        return self._app.AsyncResult(task_id).ready()

    def _tell_missed(self, planned: Planned, decision: Decision) -> None:
        entry = planned.entry
        logger.warning(
            "%s: %s%d due times were missed (missed=%s), %d sent now",
            entry.name,
            "more than " if decision.more else "",
            decision.missed,
            entry.missed,
            len(decision.send),
        )


def moved(planned: Planned, before: State | None, after: State) -> Step:
    """Return a step that sends nothing."""
    at = None if before is None else before.due_at
    return Step(planned, after, Tick(planned.entry.name, at, after.due_at, after.record))


def tick_id(table: str, name: str, due_at: float) -> str:
    """Return the id of the task that a due time of an entry sends: always the same."""
    return str(uuid.uuid5(_TICKS, f"{table}\0{name}\0{due_at:.6f}"))
