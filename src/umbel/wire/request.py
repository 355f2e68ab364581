"""A task's request: what a message says about the call it carries, under Celery's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Attribute -> value when nothing is said. Lists and dicts are made anew for each request.
_DEFAULTS: dict[str, Any] = {
    "args": (),
    "argsrepr": None,
    "called_directly": True,
    "callbacks": None,
    "chain": None,
    "children": (),
    "chord": None,
    "correlation_id": None,
    "delivery_info": None,
    "delivery_tag": None,
    "errbacks": None,
    "eta": None,
    "expires": None,
    "expires_at": None,
    "group": None,
    "group_index": None,
    "headers": None,
    "hostname": None,
    "id": None,
    "ignore_result": None,
    "is_eager": False,
    "kwargs": {},
    "kwargsrepr": None,
    "lang": "py",
    "logfile": None,
    "loglevel": None,
    "not_before": 0.0,
    "origin": None,
    "parent_id": None,
    "properties": None,
    "replaced_task_nesting": 0,
    "reply_to": "",
    "retries": 0,
    "root_id": None,
    "shadow": None,
    "stamped_headers": None,
    "stamps": None,
    "task": None,
    "timelimit": (None, None),
    "utc": True,
}


class Request:
    """What is known about one call of a task. Owned by the thread that runs it."""

    __slots__ = tuple(_DEFAULTS)

    #: None outside of a call (``called_directly``), in spite of its type: users need no check.
    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    retries: int
    #: As in the header: ISO 8601 text, or None.
    eta: str | None
    expires: str | None
    group: str | None
    group_index: int | None
    #: Seconds: hard, soft.
    timelimit: tuple[float | None, float | None]
    root_id: str | None
    parent_id: str | None
    shadow: str | None
    origin: str | None
    #: None: the sender did not say, the task's own setting applies.
    ignore_result: bool | None
    replaced_task_nesting: int
    stamped_headers: list[str] | None
    stamps: dict[str, Any] | None
    argsrepr: str | None
    kwargsrepr: str | None
    callbacks: list[Any] | None
    errbacks: list[Any] | None
    #: Remaining steps in reverse order: the next one is the last element.
    chain: list[Any] | None
    chord: Any
    reply_to: str
    correlation_id: str | None
    #: exchange, routing_key, priority, redelivered.
    delivery_info: dict[str, Any] | None
    #: The sender's own headers; None when there are none.
    headers: dict[str, Any] | None
    properties: dict[str, Any] | None
    hostname: str | None
    is_eager: bool
    called_directly: bool
    utc: bool
    #: Results of the tasks that this one has sent.
    children: list[Any]
    logfile: str | None
    loglevel: int | None
    lang: str | None
    delivery_tag: Any
    #: The times of ``eta`` and ``expires`` as wall seconds; 0 and None when unset.
    not_before: float
    expires_at: float | None

    def __init__(self, **fields: Any) -> None:
        self.update(_DEFAULTS)
        self.args = []
        self.kwargs = {}
        self.children = []
        self.update(fields)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field of this name, or ``default`` when there is no such field."""
        return getattr(self, name, default)

    def update(self, fields: Mapping[str, Any]) -> None:
        """Set several fields."""
        for name, value in fields.items():
            setattr(self, name, value)

    @property
    def time_limit(self) -> float | None:
        """Seconds until the hard limit."""
        return self.timelimit[0]

    @property
    def soft_time_limit(self) -> float | None:
        """Seconds until the soft limit."""
        return self.timelimit[1]

    def __repr__(self) -> str:
        """Name the call."""
        return f"<Request: {self.task}[{self.id}] retries={self.retries}>"
