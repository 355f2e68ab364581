"""A task's request: what a message says about the call it carries, under Celery's names."""

from __future__ import annotations

from typing import Any

#: Attribute -> value when nothing is said. Lists and dicts are made anew for each request.
_DEFAULTS: dict[str, Any] = {
    "id": None,
    "task": None,
    "args": None,
    "kwargs": None,
    "retries": 0,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "timelimit": (None, None),
    "root_id": None,
    "parent_id": None,
    "shadow": None,
    "origin": None,
    "ignore_result": None,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": None,
    "argsrepr": None,
    "kwargsrepr": None,
    "callbacks": None,
    "errbacks": None,
    "chain": None,
    "chord": None,
    "reply_to": "",
    "correlation_id": None,
    "delivery_info": None,
    "headers": None,
    "properties": None,
    "hostname": None,
    "is_eager": False,
    "called_directly": True,
    "utc": True,
    "children": None,
    "logfile": None,
    "loglevel": None,
    "lang": "py",
    "delivery_tag": None,
    "not_before": 0.0,
    "expires_at": None,
}


class Request:
    """What is known about one call of a task. Owned by the thread that runs it."""

    __slots__ = (
        "args",
        "argsrepr",
        "callbacks",
        "called_directly",
        "chain",
        "children",
        "chord",
        "correlation_id",
        "delivery_info",
        "delivery_tag",
        "errbacks",
        "eta",
        "expires",
        "expires_at",
        "group",
        "group_index",
        "headers",
        "hostname",
        "id",
        "ignore_result",
        "is_eager",
        "kwargs",
        "kwargsrepr",
        "lang",
        "logfile",
        "loglevel",
        "not_before",
        "origin",
        "parent_id",
        "properties",
        "replaced_task_nesting",
        "reply_to",
        "retries",
        "root_id",
        "shadow",
        "stamped_headers",
        "stamps",
        "task",
        "timelimit",
        "utc",
    )

    id: str | None
    task: str | None
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
        for name, default in _DEFAULTS.items():
            setattr(self, name, default)
        self.args = []
        self.kwargs = {}
        self.children = []
        self.update(fields)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field of this name, or ``default`` when there is no such field."""
        return getattr(self, name, default)

    def update(self, fields: dict[str, Any]) -> None:
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
        return f"<Request: {self.task}[{self.id}] retries={self.retries}>"


assert set(Request.__slots__) == set(_DEFAULTS)
