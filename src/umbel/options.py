"""The options of apply_async: which there are, and what they mean for a message."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from umbel import checks
from umbel.exceptions import ImproperlyConfigured
from umbel.spelling import suggestion
from umbel.topology import Exchange, Queue
from umbel.wire.names import AMQP_PROPERTIES, TASK_HEADERS


class CallOptions(TypedDict, total=False):
    """Options of one call, for type checkers."""

    countdown: float | None
    eta: dt.datetime | str | None
    expires: float | dt.timedelta | dt.datetime | str | None
    retry: bool | None
    retry_policy: Mapping[str, Any] | None
    deadline_in: float | None
    priority: int | None
    queue: str | Queue | None
    exchange: str | Exchange | None
    exchange_type: str | None
    routing_key: str | None
    task_id: str | None
    link: Any
    link_error: Any
    headers: Mapping[str, Any] | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    shadow: str | None
    reply_to: str | None
    group_id: str | None
    group_index: int | None
    root_id: str | None
    parent_id: str | None
    chain: Sequence[Any] | None
    chord: Any
    retries: int
    add_to_parent: bool
    stamped_headers: Sequence[str] | None
    producer: Any
    connection: Any
    publisher: Any
    router: Any
    correlation_id: str
    message_id: str
    delivery_mode: int | str
    timestamp: int
    type: str
    user_id: str
    app_id: str
    cluster_id: str


#: Task attributes that are options of each of its calls, unless the call says otherwise.
PER_TASK = ("queue", "exchange", "routing_key", "priority", "expires", "delivery_mode")
#: Every option that a call may have; the headers of a task are options of calls made by workers.
KNOWN = frozenset(CallOptions.__annotations__) | AMQP_PROPERTIES | TASK_HEADERS

_DELIVERY_MODES = {"transient": 1, "persistent": 2}


def check_call(options: Mapping[str, Any], *, more: frozenset[str] = frozenset()) -> None:
    """Raise TypeError for an option that does not exist, beside ``more``, or cannot be."""
    if not options.keys() <= KNOWN:
        stamps = options.get("stamped_headers") or ()
        for name in sorted(options.keys() - KNOWN - more - set(stamps)):
            raise TypeError(f"apply_async() has no option {name!r}{suggestion(name, KNOWN)}")
    kinds = checks.CALL
    for name, value in options.items():
        if value is not None and name in kinds:
            try:
                kinds[name].check(value)
            except (TypeError, ValueError) as error:
                what = kinds[name].what
                raise TypeError(f"{name}: expected {what}, got {value!r:.80}") from error


def call_arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that apply_async was given, or raise TypeError."""
    if args is not None and not isinstance(args, (list, tuple)):
        raise TypeError(f"args: expected a list or tuple of arguments, got {args!r:.80}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs: expected a dict of arguments, got {kwargs!r:.80}")
    return tuple(args or ()), dict(kwargs or {})


def expand(found: dict[str, Any], *, now: float, zone: dt.tzinfo | None) -> dict[str, Any]:
    """Make options what the encoder takes, in place: times as wall seconds, stamps collected."""
    countdown, eta = found.pop("countdown", None), found.pop("eta", None)
    if countdown is not None:
        found["not_before"] = now + _seconds("countdown", countdown)
    elif eta is not None:
        found["eta"], found["not_before"] = wall_time("eta", eta, zone)
    expires = found.pop("expires", None)
    if isinstance(expires, (int, float, dt.timedelta)):
        found["expires_at"] = now + _seconds("expires", expires)
    elif expires is not None:
        found["expires"], found["expires_at"] = wall_time("expires", expires, zone)
    if found.get("stamped_headers"):
        names = list(dict.fromkeys(found["stamped_headers"]))
        given = found.get("stamps") or {}
        found["stamped_headers"] = names
        found["stamps"] = {**given, **{name: found[name] for name in names if name in found}}
    if isinstance(found.get("delivery_mode"), str):
        found["delivery_mode"] = _DELIVERY_MODES[found["delivery_mode"]]
    return found


def wall_time(name: str, given: Any, zone: dt.tzinfo | None) -> tuple[str, float]:
    """Return a time as ISO text and as wall seconds; a naive one is of the application's zone."""
    try:
        moment = dt.datetime.fromisoformat(given) if isinstance(given, str) else given
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone) if zone else moment.astimezone()
        elif isinstance(given, str):
            return given, moment.timestamp()
        return moment.isoformat(), moment.timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"{name}: expected a datetime or an ISO 8601 text, got {given!r}"
        ) from error


def _seconds(name: str, given: Any) -> float:
    if isinstance(given, dt.timedelta):
        return given.total_seconds()
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return given
    raise TypeError(f"{name}: expected a number of seconds, got {given!r}")


def zone_of(settings: Mapping[str, Any]) -> dt.tzinfo | None:
    """Return the zone of naive times; None = this machine's."""
    name = settings["timezone"]
    if name is None or name.upper() == "UTC":
        return dt.UTC if settings["enable_utc"] or name else None
    import zoneinfo  # noqa: PLC0415 -- few applications name a zone

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise ImproperlyConfigured(
            f"timezone: expected a name such as 'Europe/Berlin', got {name!r}"
        ) from error
