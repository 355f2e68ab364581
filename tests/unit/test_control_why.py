"""From the facts about a task to one answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from umbel import states
from umbel.control.nodes import RunningTask, WorkerNode, WorkerProcess
from umbel.control.why import KINDS, Answer, Facts, answer
from umbel.message import Message
from umbel.servers.seams import DeadLetter, Depth, Place, Revocation

NOW = 1_000_000.0
MESSAGE = Message("id", b"", {"task": "t.add"}, "q")
READY = Place("ready", "q", MESSAGE, ahead=3)
DELAYED = Place("delayed", "q", MESSAGE, due_at=NOW + 180)
HELD = Place("held", "q", MESSAGE, consumer_id="w1:7:x")
IDLE = WorkerProcess(7, "w1:7:x", 0, (), 0)
BUSY = WorkerProcess(7, "w1:7:x", 0, (RunningTask("id", "t.add", NOW - 5),), 1)
OTHER = WorkerProcess(7, "w1:7:x", 0, (RunningTask("other", "t.long", NOW - 50),), 1)
NODE = WorkerNode("w1", 1, ("q",), frozenset({"t.add"}), 1, "prefork", 0, (IDLE,))
DEPTH = Depth(ready=4, oldest_at=NOW - 60, consumers=1)


def facts(**known: Any) -> Facts:
    usual: dict[str, Any] = {
        "finds": "exact",
        "task": "t.add",
        "nodes": (NODE,),
        "depths": {"q": DEPTH},
    }
    return Facts("id", NOW, "broker://", **(usual | known))


def told(**known: Any) -> tuple[str, str]:
    found = answer(facts(**known))
    assert found.kind in KINDS
    return found.kind, found.text


@pytest.mark.parametrize(
    ("known", "kind", "text"),
    [
        # It has ended
        (
            {"state": states.SUCCESS, "done_at": NOW - 60},
            "done",
            "it is done: it succeeded 1 min ago",
        ),
        ({"state": states.SUCCESS, "places": (READY,)}, "done", "it is done: it succeeded"),
        (
            {"state": states.FAILURE, "error": "ValueError('x')", "done_at": NOW - 1},
            "done",
            "it is done: it failed 1 s ago: ValueError('x')",
        ),
        (
            {"state": states.REVOKED, "error": "TaskRevokedError('expired')"},
            "expired",
            "it expired before a worker could run it",
        ),
        (
            {
                "state": states.REVOKED,
                "error": "TaskRevokedError('revoked')",
                "revocation": Revocation("ann@host", NOW - 3600),
            },
            "revoked",
            "it was revoked by ann@host 1 h ago",
        ),
        ({"state": states.REVOKED, "error": "TaskRevokedError('x')"}, "revoked", "it was revoked"),
        # Somebody works on it
        (
            {"nodes": (replace(NODE, processes=(BUSY,)),), "places": (HELD,)},
            "running",
            "it is running: worker w1, process 7, for 5 s",
        ),
        (
            {
                "nodes": (replace(NODE, processes=(BUSY,)),),
                "revocation": Revocation("ann", NOW, "SIGTERM"),
            },
            "running",
            "it is running: worker w1, process 7, for 5 s; it was revoked and is being terminated",
        ),
        (
            {"places": (HELD, READY)},
            "held",
            "worker w1 holds it, process 7, and is about to run it or to give it back",
        ),
        (
            {"places": (HELD,), "nodes": (replace(NODE, processes=(OTHER,)),)},
            "held",
            (
                "worker w1 holds it, process 7, and is about to run it or to give it back; it runs "
                "t.long[other] for 50 s"
            ),
        ),
        (
            {"places": (HELD,), "nodes": ()},
            "held",
            (
                "the consumer w1:7:x holds it, of which no living worker tells; if it died, the "
                "task goes to others within seconds"
            ),
        ),
        # It waits
        (
            {"places": (READY,)},
            "ready",
            "it is in queue q behind 3 others; the oldest waits 1 min",
        ),
        (
            {"places": (READY,), "finds": "about", "depths": {}},
            "ready",
            "it is in queue q behind about 3 others",
        ),
        ({"places": (replace(READY, ahead=0),)}, "ready", "it is next in queue q"),
        ({"places": (DELAYED,)}, "delayed", "it is due in 3 min, in queue q"),
        (
            {"places": (replace(READY, message=replace(MESSAGE, not_before=NOW + 60)),)},
            "delayed",
            "it is due in 1 min, in queue q",
        ),
        (
            {"places": (DELAYED,), "state": states.RETRY, "error": "OSError()"},
            "delayed",
            "it is due in 3 min, in queue q; it failed and is tried again: OSError()",
        ),
        (
            {"places": (READY,), "nodes": (), "depths": {"q": replace(DEPTH, consumers=0)}},
            "no-consumer",
            "no worker consumes queue q; it is in queue q behind 3 others; the oldest waits 1 min",
        ),
        (
            {"places": (DELAYED,), "nodes": (), "depths": {}},
            "no-consumer",
            "no worker consumes queue q; it is due in 3 min, in queue q",
        ),
        ({"places": (DELAYED,), "nodes": ()}, "delayed", "it is due in 3 min, in queue q"),
        (
            {"places": (DELAYED,), "task": "t.sub"},
            "unknown-task",
            "no running worker knows task t.sub (w1 does not); it is due in 3 min, in queue q",
        ),
        (
            {"places": (replace(READY, message=replace(MESSAGE, expires_at=NOW - 2)),)},
            "expired",
            (
                "it expired 2 s ago; a worker will say so when it comes to it; it is in queue q "
                "behind 3 others; the oldest waits 1 min"
            ),
        ),
        (
            {"places": (DELAYED,), "revocation": Revocation("ann", NOW - 1)},
            "revoked",
            (
                "it was revoked by ann 1 s ago; a worker will say so when it comes to it; it is "
                "due in 3 min, in queue q"
            ),
        ),
        # It is nowhere
        (
            {"revocation": Revocation("", NOW - 1)},
            "revoked",
            "it was revoked by somebody 1 s ago",
        ),
        ({"state": "STARTED"}, "unknown", "its state is STARTED, and its message is gone"),
        (
            {},
            "unknown",
            (
                "it is not known here: broker:// has no message, result or dead letter of it. It "
                "was never sent here, its result has expired, or its task ignores results"
            ),
        ),
        # Nobody can look
        (
            {"finds": ""},
            "not-known",
            "where it is, is not known on this broker; ready: q (about 4)",
        ),
        (
            {"finds": "", "state": states.RETRY, "error": "OSError()"},
            "not-known",
            (
                "its state is RETRY; it failed and is tried again: OSError(); where it is, is not "
                "known on this broker; ready: q (about 4)"
            ),
        ),
        (
            {"finds": "", "nodes": None, "depths": {"q": replace(DEPTH, consumers=0)}},
            "no-consumer",
            (
                "no worker consumes queue q now, unless all are busy with long tasks; where it "
                "is, is not known on this broker; ready: q (about 4)"
            ),
        ),
        (
            {"finds": "", "task": "t.sub"},
            "unknown-task",
            (
                "no running worker knows task t.sub (w1 does not); where it is, is not known on "
                "this broker; ready: q (about 4)"
            ),
        ),
        (
            {"finds": "", "depths": {}},
            "not-known",
            "where it is, is not known on this broker; ready: no queue",
        ),
    ],
)
def test_answers(known: dict[str, Any], kind: str, text: str) -> None:
    assert told(**known) == (kind, text)


def test_a_dead_letter_tells_its_reason_and_what_to_do() -> None:
    letter = DeadLetter("1", MESSAGE, "q", "too hot", NOW - 60)
    found = answer(facts(letter=letter, state=states.FAILURE))
    assert found == Answer(
        "dead",
        "it is a dead letter since 1 min: too hot (umbel dead requeue id sends it again)",
        {"reason": "too hot", "queue": "q", "died_at": NOW - 60},
    )


def test_a_message_that_was_sent_again_counts_more_than_its_old_end() -> None:
    letter = DeadLetter("1", MESSAGE, "q", "too hot", NOW - 60)
    assert told(letter=letter, state=states.FAILURE, places=(READY,))[0] == "ready"
    assert told(state=states.REVOKED, places=(READY,))[0] == "ready"


def test_details_are_data() -> None:
    assert answer(facts(places=(READY,))).details == {"queue": "q", "ahead": 3, "due_at": None}
    assert answer(facts(nodes=(replace(NODE, processes=(BUSY,)),))).details == {
        "node": "w1",
        "pid": 7,
        "since": NOW - 5,
    }
