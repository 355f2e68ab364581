"""Every exception umbel raises. Names and meanings are Celery's where Celery has them.

    Exception
     └─ UmbelError (= CeleryError)
         ├─ TaskPredicate ............. raised in a task to say how it ends
         │   ├─ Retry
         │   ├─ Ignore
         │   │   ├─ Replaced
         │   │   └─ Continued
         │   └─ Reject
         ├─ TaskError
         │   ├─ NotRegistered (also KeyError)
         │   ├─ AlreadyRegistered
         │   ├─ QueueNotFound (also KeyError)
         │   ├─ IncompleteStream
         │   ├─ InvalidTaskError
         │   ├─ MaxRetriesExceededError
         │   ├─ TaskRevokedError
         │   ├─ ChordError
         │   └─ TimeoutError (also builtins.TimeoutError)
         ├─ ImproperlyConfigured
         ├─ SecurityError
         ├─ SerializationError
         │   ├─ EncodeError
         │   ├─ DecodeError
         │   └─ ContentDisallowed
         ├─ TransportError (= OperationalError) ... talking to a server
         │   ├─ ConnectionLost
         │   ├─ PublishError
         │   │   ├─ Unroutable
         │   │   └─ MessageTooLarge
         │   ├─ TopologyConflict
         │   └─ StorageError
         ├─ BackendError
         ├─ WorkerLostError
         ├─ Terminated
         ├─ TimeLimitExceeded
         └─ SoftTimeLimitExceeded

    UserWarning
     └─ SecurityWarning

A class's docstring is its default message: what happened, and what to do.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any


class UmbelError(Exception):
    """Something went wrong in umbel."""

    def __str__(self) -> str:
        """Return the arguments' text, or the class's docstring when there are none."""
        return super().__str__() or (type(self).__doc__ or type(self).__name__).strip()


CeleryError = UmbelError


class TaskPredicate(UmbelError):
    """A task said how it wants to end."""


class Retry(TaskPredicate):
    """The task will run again later."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: Any = None,
        *,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc if isinstance(exc, BaseException) else None
        self.excs = repr(exc) if exc is not None else None
        #: Seconds to wait, or a datetime.
        self.when = when
        self.is_eager = is_eager
        self.sig = sig

    def humanize(self) -> str:
        """Say when, in words."""
        if isinstance(self.when, (int, float)):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        """Say why and when."""
        if self.message:
            return self.message
        reason = f": {self.excs}" if self.excs else ""
        return f"Retry {self.humanize()}{reason}"


class Ignore(TaskPredicate):
    """The task ends and stores no result."""


class Replaced(Ignore):
    """The task gave its place to a workflow, which will have its id and its result."""

    def __init__(self, signature: Any = None) -> None:
        super().__init__()
        self.signature = signature


class Continued(Ignore):
    """The task read the next links of a long chain, which goes on with this value."""

    def __init__(self, links: Any = (), value: Any = None) -> None:
        super().__init__()
        self.links = links
        self.value = value


class Reject(TaskPredicate):
    """The task refuses its message: with ``requeue`` it is delivered again, else dead-lettered."""

    def __init__(
        self,
        reason: Any = None,
        requeue: bool = False,  # noqa: FBT001, FBT002 -- Celery's signature
    ) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __str__(self) -> str:
        """Say the reason and the verdict."""
        return f"reject requeue={self.requeue}: {self.reason}"


class TaskError(UmbelError):
    """Something is wrong with a task."""


class NotRegistered(TaskError, KeyError):
    """No task of this name is known here. Import the module that defines it, or check the name."""

    #: How the text ends where there is a similar name.
    hint: str = ""

    def __str__(self) -> str:
        """Name the task."""
        if not self.args:
            return UmbelError.__str__(self)
        return f"no task named {self.args[0]!r} is registered{self.hint}"


class AlreadyRegistered(TaskError):
    """Another task has this name."""


class QueueNotFound(TaskError, KeyError):
    """This queue is not in task_queues, and task_create_missing_queues is off."""

    def __str__(self) -> str:
        """Give the text unquoted, unlike KeyError."""
        return str(self.args[0]) if self.args else UmbelError.__str__(self)


class IncompleteStream(TaskError):
    """The end of a stream was reached too early."""


class InvalidTaskError(TaskError):
    """The message is no valid task message."""


class MaxRetriesExceededError(TaskError):
    """The task was retried as often as it may be."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = task_kwargs if task_kwargs is not None else {}


class TaskRevokedError(TaskError):
    """The task was revoked; nothing more will come of it."""


class ChordError(TaskError):
    """A member of the chord's header failed."""


class TimeoutError(TaskError, builtins.TimeoutError):
    """The operation timed out."""


class ImproperlyConfigured(UmbelError):
    """A setting is wrong."""


class SecurityError(UmbelError):
    """Something was refused for safety."""


class SerializationError(UmbelError):
    """Data could not be turned into bytes or back."""


class EncodeError(SerializationError):
    """A value cannot be encoded. Convert it first, or choose another serializer."""


class DecodeError(SerializationError):
    """Bytes cannot be decoded as their content type says."""


class ContentDisallowed(SerializationError):
    """This content type is not in accept_content."""


class TransportError(UmbelError):
    """Talking to a server failed."""


OperationalError = TransportError


class ConnectionLost(TransportError):
    """The connection to the server broke; whether the last operation took place is not known."""


class PublishError(TransportError):
    """Some messages were not stored. ``refused`` pairs each of their ids with the reason."""

    def __init__(self, message: str = "", refused: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message, list(refused))
        self.message = message
        self.refused = list(refused)

    def __str__(self) -> str:
        """Say how many were refused and why the first was."""
        if not self.refused:
            return self.message or UmbelError.__str__(self)
        first_id, reason = self.refused[0]
        more = f" (and {len(self.refused) - 1} more)" if len(self.refused) > 1 else ""
        return f"{self.message or 'not sent'}: {first_id}: {reason}{more}"


class Unroutable(PublishError):
    """No queue is bound for these messages. Declare the queue or its binding first."""


class MessageTooLarge(PublishError):
    """The message is larger than the server takes. Send a reference to the data instead."""


class TopologyConflict(TransportError):
    """One of this name exists with other properties. Use another name, or delete it."""


class StorageError(TransportError):
    """The server cannot store: its disk is full, its file damaged or locked."""


class BackendError(UmbelError):
    """The result store failed."""


class WorkerLostError(UmbelError):
    """The worker process running the task died, more often than the task's budget allows."""


class Terminated(UmbelError):
    """The process running the task was ended on request."""


class TimeLimitExceeded(UmbelError):
    """The task ran over its hard time limit and its process was ended."""


class SoftTimeLimitExceeded(UmbelError):
    """The task ran over its soft time limit; it may catch this and tidy up."""


class SecurityWarning(UserWarning):
    """Something that was configured is dangerous."""
