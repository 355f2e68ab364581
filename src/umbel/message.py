"""What travels between the parts: messages, deliveries, outcomes and effects. Values only.

    publisher ─ Message ─> server ─ Delivery ─> execute ─ Outcome ─> advance ─ Effects ─> commit

Nothing here is changed after it was made, so all of it may cross threads. ``Message`` has the
fields that AMQP gives a message and the wire layouts of every server can carry; what the headers
and the body mean is known to ``wire`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from umbel.values import value


@value
class Message:
    """An opaque body with its headers, its properties and where it goes."""

    #: The task's id (AMQP's correlation_id); unique per call, the same in a retry. "" if unknown.
    id: str
    body: bytes
    #: JSON-able metadata; user headers are merged into it. Never changed after publishing.
    headers: dict[str, Any]
    #: With the empty exchange this is the queue's name.
    routing_key: str
    exchange: str = ""
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    #: 0 to 9 after clamping; the raw value is kept on the wire.
    priority: int = 0
    #: Where the result shall be sent (rpc stores), or who asked. "" if nobody.
    reply_to: str = ""
    #: Wall time before which nobody may receive it; 0 = at once. The server keeps it until then.
    not_before: float = 0.0
    #: Wall time after which it is not worth running; None = never. Delivered all the same, so that
    #: its caller gets an answer.
    expires_at: float | None = None
    #: Wall time of publishing; 0 if the sender did not say.
    sent_at: float = 0.0
    #: Further AMQP properties by name (message_id, type, delivery_mode, …); None = none.
    properties: Mapping[str, Any] | None = None


@value
class Delivery:
    """A message that a consumer holds until its effects are committed or it is given back."""

    message: Message
    #: The queue it came from.
    queue: str
    #: The server's handle of the hold; only the server that gave it understands it.
    tag: Any
    #: How many times the process that was running it died (it alone, so it is to blame).
    crashes: int = 0
    #: How many times its holder was lost for a reason nobody saw (a machine died).
    losses: int = 0
    #: Its process died while several tasks ran: run it alone, so that the next death is its own.
    suspect: bool = False
    #: It was delivered before.
    redelivered: bool = False
    #: It was revoked before it was delivered.
    revoked: bool = False
    #: Why it must not run again ("time-limit 5.0", "terminated"), said when its process was ended;
    #: "" = it may run.
    verdict: str = ""
    #: Why these bytes are no message (then the body is the raw bytes); None = it is one.
    problem: str | None = None


@value
class Outcome:
    """What became of a call: the state it reached and what the user's code returned or raised."""

    state: str
    #: SUCCESS: the return value. RETRY: unused. Custom: the meta.
    value: Any = None
    error: BaseException | None = None
    #: The remote traceback as text.
    traceback: str | None = None
    #: RETRY: wall time of the next attempt (0 = at once).
    not_before: float = 0.0
    #: RETRY: what the new attempt changes (args, kwargs, queue, expires, …); None = nothing.
    changes: Mapping[str, Any] | None = None
    #: REJECTED: deliver it again instead of dead-lettering it.
    requeue: bool = False
    #: Seconds the user's code ran.
    runtime: float = 0.0
    #: Wall time at which it ended; None = it did not (or nobody looked).
    done_at: float | None = None
    #: Put the message among the dead letters for this reason; None = do not.
    dead: str | None = None


@value
class ResultRecord:
    """A task's result as a store keeps it: opaque bytes under the task's id."""

    task_id: str
    meta: bytes
    state: str
    #: Seconds until the store may forget it; None = never.
    expires_in: float | None = 86400.0
    #: For stores that send the result to its caller instead of keeping it.
    reply_to: str = ""


class Ending(Enum):
    """How effects leave the delivery they belong to."""

    #: It is done; the server forgets it.
    ACK = "ack"
    #: It goes to the dead letters with the reason in ``Effects.reason``.
    DEAD = "dead"
    #: It stays held: progress was reported, or the message was acknowledged before.
    KEEP = "keep"
    #: It goes back to its queue, behind the others; not counted against it.
    REQUEUE = "requeue"


@value
class Join:
    """A set of members that a body waits for. Each member counts once."""

    #: The group's id.
    id: str
    size: int
    #: What is needed to make the body when all have ended: opaque.
    context: bytes
    #: Seconds until the server may forget it; None = never.
    expires_in: float | None = 86400.0


@value
class Arrival:
    """A member of a join that has ended, however."""

    join: str
    #: Counts once.
    member: str
    #: Its place among the results; None = behind those that have one.
    index: int | None
    #: How it ended: opaque.
    part: bytes
    #: As in ``Join``: that of the last arrival counts. b"" = it is not known; then the arrival only
    #: counts if the join is.
    context: bytes
    expires_in: float | None = 86400.0


@value
class Effects:
    """What follows from an outcome. Committed together, and only if the delivery is still ours."""

    #: None = nothing is held (the message was acknowledged before it ran): effects without a fence.
    delivery: Delivery | None
    ending: Ending = Ending.ACK
    reason: str = ""
    results: tuple[ResultRecord, ...] = ()
    publish: tuple[Message, ...] = ()
    #: Joins that begin, and members that have ended.
    opens: tuple[Join, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    #: The id of a join whose body this is: the effects take place only if it is complete and nobody
    #: has closed it. "" = none.
    closes: str = ""
    #: The delivery that is held no more.
    acknowledged: Delivery | None = None
