"""Celery's names on the wire: headers, keys, modules of exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from umbel import exceptions

#: Headers that a sender always writes, null when unset, in that order. Stored files rely on it: a
#: longer table gets a name of its own.
HEADER_ORDER: Final[tuple[str, ...]] = (
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
)
TASK_HEADERS: Final = frozenset(HEADER_ORDER)
#: Last exchange of Celery's delays on RabbitMQ, and what stands before a key there: one binary
#: digit for each of its queues.
DELAYED_EXCHANGE: Final = "celery_delayed_delivery"
DELAYED_DIGITS: Final = 28
#: How often a task has replaced itself: a header and an option.
NESTING: Final = "replaced_task_nesting"
COMPRESSION: Final = "compression"
#: Header of what a scheduler sends.
BEAT: Final = "celery_beat_task"
#: Our own property in the Redis envelope: [sent_at, expires_at], and not_before if there is one.
#: Others pass it on unread.
OWN: Final = "umbel"
#: Set by Celery's transport on a message that it put back.
REDELIVERED: Final = "redelivered"
#: Written by RabbitMQ on dead-lettered or redelivered messages; a retry does not carry them on.
BROKER_HEADERS: Final = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
    }
)
#: What is not a user's own header.
KNOWN_HEADERS: Final = TASK_HEADERS | BROKER_HEADERS | {COMPRESSION, REDELIVERED, "utc"}

#: AMQP's basic properties that a caller may set and that have no field in Message.
AMQP_PROPERTIES: Final = frozenset(
    {
        "app_id",
        "cluster_id",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "message_id",
        "timestamp",
        "type",
        "user_id",
    }
)

#: The third part of a body without follow-ups. Read only.
EMPTY_EMBED: Final[dict[str, Any]] = {
    "callbacks": None,
    "errbacks": None,
    "chain": None,
    "chord": None,
}

_CELERY = (
    "AlreadyRegistered",
    "BackendError",
    "ChordError",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotRegistered",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeoutError",
)
_BILLIARD = ("SoftTimeLimitExceeded", "Terminated", "TimeLimitExceeded", "WorkerLostError")
_KOMBU = ("ContentDisallowed", "DecodeError", "EncodeError", "SerializationError")

#: Our exception class -> (module, name) under which Celery's programs know it.
EXCEPTION_NAMES: Final[Mapping[type[BaseException], tuple[str, str]]] = {
    exceptions.UmbelError: ("celery.exceptions", "CeleryError"),
    exceptions.TransportError: ("kombu.exceptions", "OperationalError"),
    **{getattr(exceptions, name): ("celery.exceptions", name) for name in _CELERY},
    **{getattr(exceptions, name): ("billiard.exceptions", name) for name in _BILLIARD},
    **{getattr(exceptions, name): ("kombu.exceptions", name) for name in _KOMBU},
}
#: And back; Celery shows some of them under a second module as well.
EXCEPTION_CLASSES: Final[Mapping[tuple[str, str], type[BaseException]]] = {
    **{where: cls for cls, where in EXCEPTION_NAMES.items()},
    **{
        ("celery.exceptions", name): getattr(exceptions, name)
        for name in (*_BILLIARD, "OperationalError")
    },
}

#: Keys on Redis (``wire-protocol`` 2.2, 2.3, 4.1), without the user's prefix.
BINDINGS: Final = "_kombu.binding."
PERMANENT_BINDINGS: Final = "_kombu.binding_permanent."
BINDING_DEADLINES: Final = "_kombu.binding_deadlines"
UNACKED: Final = "unacked"
UNACKED_INDEX: Final = "unacked_index"
#: Options that give them other names.
UNACKED_OPTION: Final = "unacked_key"
UNACKED_INDEX_OPTION: Final = "unacked_index_key"
RESULT: Final = "celery-task-meta-"
GROUP: Final = "celery-taskset-meta-"
BUCKET_SEPARATOR: Final = "\x06\x16"
PRIORITY_STEPS: Final = (0, 3, 6, 9)


#: Bytes of a task's id, at most.
LONGEST_ID: Final = 255


def tree(root_id: str) -> str:
    """Return under which id it is kept that all of a workflow is revoked."""
    return f"tree:{root_id}"


def tree_of(headers: Mapping[str, Any]) -> str:
    """Return the id of the workflow that a message is part of, as ``tree`` makes it."""
    return tree(str(headers.get("root_id")))


def is_clean(value: object) -> TypeGuard[str]:
    """Tell whether this is a text that every server can use as a key: no NUL, no lone surrogate."""
    if not isinstance(value, str) or not value:
        return False
    if value.isprintable():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
