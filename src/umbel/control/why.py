"""Why does my task not run? From the facts to one plain answer. Pure.

``facts`` gathers what servers, ledger and nodes know. Here one thing is decided: which of all that
is true is the reason, or the nearest thing to one. In this order:

    it has a final result, or died    done, expired, revoked, dead
    a process runs it                 running
    somebody holds it                 held
    it waits                          expired, revoked; no worker for its queue or its task;
                                      delayed, ready
    it is nowhere                     revoked; not known on this broker; not known here
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from umbel import states
from umbel.control.nodes import WorkerNode
from umbel.control.wording import count, duration
from umbel.servers.seams import DeadLetter, Depth, Place, Revocation


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known about a task."""

    task_id: str
    #: Wall time at which it was asked.
    now: float
    #: The broker, as it is shown.
    broker: str
    #: ``Capabilities.finds``.
    finds: str
    #: The task's name, if the caller said it or the message does; "" = not known.
    task: str = ""
    places: tuple[Place, ...] = ()
    #: Of the queues it is in, or could be in.
    depths: Mapping[str, Depth] = field(default_factory=dict)
    #: Workers that live; None = there is no ledger that could tell.
    nodes: Sequence[WorkerNode] | None = None
    revocation: Revocation | None = None
    letter: DeadLetter | None = None
    state: str = states.PENDING
    #: What it raised, as text.
    error: str = ""
    #: Wall time; None = not stored.
    done_at: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Why it does not run, or that it does."""

    #: One word for programs: see KINDS.
    kind: str
    text: str
    #: What the text is made of, JSON-able.
    details: Mapping[str, Any] = field(default_factory=dict)


#: What an answer may be.
KINDS = (
    "done",
    "dead",
    "running",
    "held",
    "expired",
    "revoked",
    "no-consumer",
    "unknown-task",
    "delayed",
    "ready",
    "not-known",
    "unknown",
)


def answer(facts: Facts) -> Answer:
    """Return the answer to these facts."""
    return _ended(facts) or _running(facts) or _held(facts) or _waiting(facts) or _nowhere(facts)


# -- it has ended ----------------------------------------------------------------------------------


def _ended(facts: Facts) -> Answer | None:
    if facts.letter is not None and not facts.places:
        return _dead(facts, facts.letter)
    if facts.state not in states.READY_STATES:
        return None
    if facts.places and facts.state != states.SUCCESS:
        return None  # it was sent again, with the same id
    details = {"state": facts.state, "done_at": facts.done_at}
    ago = "" if facts.done_at is None else f" {duration(facts.now - facts.done_at)} ago"
    if facts.state == states.SUCCESS:
        return Answer("done", f"it is done: it succeeded{ago}", details)
    if facts.state == states.REVOKED:
        if "expired" in facts.error:
            return Answer("expired", f"it expired before a worker could run it{ago}", details)
        return Answer("revoked", f"it was {_revoked(facts)}", details)
    return Answer("done", f"it is done: it failed{ago}: {facts.error}", details)


def _dead(facts: Facts, letter: DeadLetter) -> Answer:
    ago = duration(facts.now - letter.died_at)
    return Answer(
        "dead",
        f"it is a dead letter since {ago}: {letter.reason} "
        f"(umbel dead requeue {facts.task_id} sends it again)",
        {"reason": letter.reason, "queue": letter.queue, "died_at": letter.died_at},
    )


def _revoked(facts: Facts) -> str:
    said = facts.revocation
    if said is None:
        return "revoked"
    return f"revoked by {said.by or 'somebody'} {duration(facts.now - said.at)} ago"


# -- it is being worked on -------------------------------------------------------------------------


def _running(facts: Facts) -> Answer | None:
    for node in facts.nodes or ():
        for process in node.processes:
            for task in process.running:
                if task.id == facts.task_id:
                    since = duration(facts.now - task.since)
                    ending = facts.revocation is not None and facts.revocation.signal
                    also = "; it was revoked and is being terminated" if ending else ""
                    return Answer(
                        "running",
                        f"it is running: worker {node.name}, process {process.pid}, "
                        f"for {since}{also}",
                        {"node": node.name, "pid": process.pid, "since": task.since},
                    )
    return None


def _held(facts: Facts) -> Answer | None:
    place = next((each for each in facts.places if each.state == "held"), None)
    if place is None:
        return None
    for node in facts.nodes or ():
        for process in node.processes:
            if process.consumer_id == place.consumer_id:
                return Answer(
                    "held",
                    f"worker {node.name} holds it, process {process.pid}, and is about to run it "
                    f"or to give it back{_busy(facts, process.running)}",
                    {"node": node.name, "pid": process.pid, "queue": place.queue},
                )
    return Answer(
        "held",
        f"the consumer {place.consumer_id} holds it, of which no living worker tells; if it died, "
        "the task goes to others within seconds",
        {"node": None, "pid": None, "queue": place.queue, "consumer": place.consumer_id},
    )


def _busy(facts: Facts, running: Sequence[Any]) -> str:
    if not running:
        return ""
    first = running[0]
    return f"; it runs {first.name}[{first.id}] for {duration(facts.now - first.since)}"


# -- it waits --------------------------------------------------------------------------------------


def _waiting(facts: Facts) -> Answer | None:
    if not facts.places:
        return None
    place = facts.places[0]
    where = _where(facts, place)
    details = {"queue": place.queue, "ahead": place.ahead, "due_at": _due_at(facts, place)}
    expires_at = place.message.expires_at
    if facts.revocation is not None:
        text = f"it was {_revoked(facts)}; a worker will say so when it comes to it; it is {where}"
        return Answer("revoked", text, details)
    if expires_at is not None and expires_at <= facts.now:
        ago = duration(facts.now - expires_at)
        text = f"it expired {ago} ago; a worker will say so when it comes to it; it is {where}"
        return Answer("expired", text, {**details, "expires_at": expires_at})
    missing = _missing(facts, place.queue)
    if missing is not None:
        kind, reason = missing
        return Answer(kind, f"{reason}; it is {where}", details)
    kind = "delayed" if details["due_at"] is not None else "ready"
    return Answer(kind, f"it is {where}{_again(facts)}", details)


def _due_at(facts: Facts, place: Place) -> float | None:
    """Return when it becomes due, also where only its message says so; None = it is."""
    due_at = place.due_at or place.message.not_before
    return due_at if due_at > facts.now else None


def _where(facts: Facts, place: Place) -> str:
    due_at = _due_at(facts, place)
    if due_at is not None:
        return f"due in {duration(due_at - facts.now)}, in queue {place.queue}"
    if not place.ahead:
        return f"next in queue {place.queue}"
    oldest_at = facts.depths.get(place.queue, Depth()).oldest_at
    oldest = "" if oldest_at is None else f"; the oldest waits {duration(facts.now - oldest_at)}"
    about = "about " if facts.finds != "exact" else ""
    return f"in queue {place.queue} behind {about}{count(place.ahead, 'other')}{oldest}"


def _missing(facts: Facts, queue: str) -> tuple[str, str] | None:
    """Say what kind of worker is missing for a queue."""
    consuming = [node for node in facts.nodes or () if queue in node.queues]
    if not consuming:
        consumers = facts.depths.get(queue, Depth()).consumers
        if consumers == 0 and facts.nodes is None:
            # RabbitMQ: who is blocked by a long task does not consume for the time.
            reason = f"no worker consumes queue {queue} now, unless all are busy with long tasks"
            return "no-consumer", reason
        if consumers == 0 or (consumers is None and facts.nodes is not None):
            return "no-consumer", f"no worker consumes queue {queue}"
    elif facts.task and not any(facts.task in node.tasks for node in consuming):
        names = ", ".join(node.name for node in consuming)
        return "unknown-task", f"no running worker knows task {facts.task} ({names} does not)"
    return None


def _again(facts: Facts) -> str:
    return f"; it failed and is tried again: {facts.error}" if facts.state == states.RETRY else ""


# -- it is nowhere ---------------------------------------------------------------------------------


def _nowhere(facts: Facts) -> Answer:
    if facts.revocation is not None:
        return Answer("revoked", f"it was {_revoked(facts)}", {})
    if not facts.finds:
        return _not_known(facts)
    if facts.state != states.PENDING:
        return Answer("unknown", f"its state is {facts.state}, and its message is gone", {})
    text = (
        f"it is not known here: {facts.broker} has no message, result or dead letter of it. It was "
        "never sent here, its result has expired, or its task ignores results"
    )
    return Answer("unknown", text, {})


def _not_known(facts: Facts) -> Answer:
    """Say what is wrong with the queues it could be in, where nobody can look into them."""
    queues = ", ".join(f"{name} (about {each.ready})" for name, each in facts.depths.items())
    rest = f"where it is, is not known on this broker; ready: {queues or 'no queue'}"
    details = {"queues": list(facts.depths), "state": facts.state}
    problems = [_missing(facts, queue) for queue in facts.depths]
    if problems and all(problems):
        kind, reason = problems[0] or ("", "")
        return Answer(kind, f"{reason}; {rest}", details)
    if facts.state == states.PENDING:
        return Answer("not-known", rest, details)
    return Answer("not-known", f"its state is {facts.state}{_again(facts)}; {rest}", details)
