"""What options of tasks and of calls may be: said where they are given, before anything is sent.

A worker takes nothing on trust and would refuse a message with a wrong option; but its caller
learns more from an error in the line that is wrong. What has a place where it is understood anyway
(serializers, routes, dates) is checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, get_args

from umbel.settings.kinds import (
    BOOLEAN,
    INTEGER,
    MAPPING,
    RATE,
    SECONDS,
    TEXT,
    Kind,
    choice,
    optional,
)
from umbel.topology import ExchangeType
from umbel.wire.names import LONGEST_ID, is_clean

#: Seconds below which delays and limits must be: thirty years.
_TOO_LONG = 1e9


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(value)
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise ValueError(value)
    return value


def _limit(value: Any) -> Any:
    if not 0 <= _number(value) < _TOO_LONG:  # false for NaN too
        raise ValueError(value)
    return value


def _delay(value: Any) -> Any:
    seconds = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    if not abs(seconds) < _TOO_LONG:
        raise ValueError(value)
    return value


def _expires(value: Any) -> Any:
    return value if isinstance(value, (str, datetime)) else _delay(value)


def _backoff(value: Any) -> Any:
    return value if isinstance(value, bool) else _limit(value)


def _name(value: Any) -> str:
    if not is_clean(value):
        raise ValueError(value)
    return value


def _task_id(value: Any) -> str:
    if value != "" and not (is_clean(value) and len(value.encode()) <= LONGEST_ID):
        raise ValueError(value)
    return str(value)


def _named(value: Any) -> Any:
    if not isinstance(value, str) and not isinstance(getattr(value, "name", None), str):
        raise TypeError(value)
    return value


def _queue(value: Any) -> Any:
    if not _named(value):
        raise ValueError(value)
    return value


def _headers(value: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(value)
    return value


def _sequence(value: Any) -> Any:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise TypeError(value)
    return value


def _delivery_mode(value: Any) -> Any:
    if value not in (1, 2, "transient", "persistent"):
        raise ValueError(value)
    return value


def _function(value: Any) -> Any:
    if not callable(value):
        raise TypeError(value)
    return value


def _exception_classes(value: Any) -> tuple[type[BaseException], ...]:
    classes = (value,) if isinstance(value, type) else tuple(value)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
        raise TypeError(value)
    return classes


def _links(value: Any) -> Any:
    """Take a signature or several."""
    for each in [value] if isinstance(value, Mapping) else value:
        if not isinstance(each, Mapping) or not isinstance(each.get("task"), str):
            raise TypeError(each)
    return value


COUNT = Kind("a whole number, 0 or more", _count, int)
PRIORITY = Kind("a whole number from 0 to 255", _priority, int)
LIMIT: Kind[Any] = Kind("a number of seconds, 0 or more", _limit, float)
DELAY: Kind[Any] = Kind("a number of seconds", _delay, float)
EXPIRES: Kind[Any] = Kind(
    "a number of seconds, a timedelta, a datetime or a text in ISO 8601", _expires, str
)
BACKOFF: Kind[Any] = Kind("True, False or the first step's seconds", _backoff, float)
NAME = Kind("a text that is not empty and has no NUL or lone surrogate", _name, str)
TASK_ID = Kind(f"a text of at most {LONGEST_ID} bytes", _task_id, str)
QUEUE: Kind[Any] = Kind("a name or a Queue", _queue, str)
EXCHANGE: Kind[Any] = Kind("a name or an Exchange", _named, str)
HEADERS: Kind[Any] = Kind("a dict with texts as keys", _headers, str)
LIST: Kind[Any] = Kind("a list", _sequence, str)
DELIVERY_MODE: Kind[Any] = Kind("1, 2, 'transient' or 'persistent'", _delivery_mode, str)
FUNCTION: Kind[Any] = Kind("a function", _function, str)
EXCEPTIONS = Kind("a tuple of exception classes", _exception_classes, str)
SIGNATURES: Kind[Any] = Kind("a signature, as task.s() makes, or a list of them", _links, str)

#: What ``apply_async`` takes. None always means: not given.
CALL: Mapping[str, Kind[Any]] = {
    "countdown": DELAY,
    "expires": EXPIRES,
    "retry": BOOLEAN,
    "retry_policy": MAPPING,
    "deadline_in": DELAY,
    "priority": PRIORITY,
    "queue": QUEUE,
    "exchange": EXCHANGE,
    "exchange_type": choice(*get_args(ExchangeType)),
    "routing_key": TEXT,
    "task_id": TASK_ID,
    "link": SIGNATURES,
    "link_error": SIGNATURES,
    "headers": HEADERS,
    "serializer": TEXT,
    "compression": TEXT,
    "ignore_result": BOOLEAN,
    "time_limit": LIMIT,
    "soft_time_limit": LIMIT,
    "shadow": NAME,
    "reply_to": TEXT,
    "group_id": NAME,
    "group_index": COUNT,
    "root_id": NAME,
    "parent_id": NAME,
    "chain": LIST,
    "retries": COUNT,
    "stamped_headers": LIST,
    "delivery_mode": DELIVERY_MODE,
}

#: What ``@app.task`` takes, and attributes of class-based tasks.
TASK: Mapping[str, Kind[Any]] = {
    "name": NAME,
    "max_retries": optional(COUNT),
    "default_retry_delay": SECONDS,
    "autoretry_for": EXCEPTIONS,
    "dont_autoretry_for": EXCEPTIONS,
    "retry_kwargs": optional(MAPPING),
    "retry_backoff": BACKOFF,
    "retry_backoff_max": LIMIT,
    "retry_jitter": BOOLEAN,
    "rate_limit": optional(RATE),
    "time_limit": optional(LIMIT),
    "soft_time_limit": optional(LIMIT),
    "ignore_result": optional(BOOLEAN),
    "store_errors_even_if_ignored": optional(BOOLEAN),
    "store_eager_result": optional(BOOLEAN),
    "track_started": optional(BOOLEAN),
    "acks_late": optional(BOOLEAN),
    "acks_on_failure_or_timeout": optional(BOOLEAN),
    "acks_on_failure": optional(BOOLEAN),
    "acks_on_timeout": optional(BOOLEAN),
    "reject_on_worker_lost": optional(BOOLEAN),
    "serializer": optional(TEXT),
    "compression": optional(TEXT),
    "queue": optional(QUEUE),
    "exchange": optional(EXCHANGE),
    "routing_key": optional(TEXT),
    "priority": optional(PRIORITY),
    "expires": optional(EXPIRES),
    "delivery_mode": optional(DELIVERY_MODE),
    "typing": BOOLEAN,
    "throws": EXCEPTIONS,
    "trail": BOOLEAN,
    "send_events": BOOLEAN,
    "resultrepr_maxsize": INTEGER,
    "pydantic": BOOLEAN,
    "pydantic_strict": optional(BOOLEAN),
    "pydantic_context": optional(MAPPING),
    "pydantic_dump_kwargs": optional(MAPPING),
    "bind": BOOLEAN,
    "on_success": FUNCTION,
    "on_failure": FUNCTION,
    "on_retry": FUNCTION,
    "after_return": FUNCTION,
    "before_start": FUNCTION,
    "shadow_name": FUNCTION,
}


def check(kinds: Mapping[str, Kind[Any]], name: str, value: Any, *, of: str) -> Any:
    """Return an option's value as it is kept; raises TypeError."""
    try:
        return kinds[name].check(value) if name in kinds else value
    except (TypeError, ValueError) as error:
        raise TypeError(f"{of}: {name}: expected {kinds[name].what}, got {value!r:.80}") from error
