"""What a Redis URL and the transport options say: where the server is, how keys are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.connection import parse_url

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ImproperlyConfigured
from umbel.wire import names
from umbel.wire.names import BUCKET_SEPARATOR, PRIORITY_STEPS

#: Seconds that one operation may take when its caller set no deadline.
SOCKET_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
POLLING_INTERVAL = 0.1
#: Seconds, as Celery has it.
VISIBILITY_TIMEOUT = 3600.0
#: Bytes of one message; above it the server's own limit (512 MiB) and our memory are too near.
MAX_MESSAGE_SIZE = 128 << 20
#: Options that redis-py's connection takes as they are.
_CONNECTION_OPTIONS = (
    "socket_connect_timeout",
    "socket_keepalive",
    "client_name",
    "username",
    "credential_provider",
)


@dataclass(frozen=True, slots=True)
class Options:
    """All that is configured about one server. Names are those of ``broker_transport_options``."""

    #: For redis-py's connection class: host, port, db, password, TLS, ….
    connection: Mapping[str, Any]
    display_url: str
    clock: Clock = SYSTEM_CLOCK
    socket_timeout: float = SOCKET_TIMEOUT
    #: Put before every key, as it is.
    global_keyprefix: str = ""
    #: Put before the keys of results; Celery adds a "_" unless it ends in one of ":_-.".
    result_keyprefix: str = ""
    #: Between the parts of bucket keys and of bindings.
    sep: str = BUCKET_SEPARATOR
    priority_steps: tuple[int, ...] = PRIORITY_STEPS
    #: The priority that is received first: 0 as Celery has it on Redis, 9 as on every other broker.
    highest_priority: int = 0
    #: Messages with a delay wait in the server even if no umbel worker consumes their queue; else
    #: they are then sent at once, for Celery's workers, which keep them in their memory.
    park_unserved: bool = False
    #: Seconds between looks for messages where the server cannot tell of them.
    polling_interval: float = POLLING_INTERVAL
    #: Seconds after which what a worker of Celery's holds goes back to its queue.
    visibility_timeout: float = VISIBILITY_TIMEOUT
    #: Put before the names of channels.
    fanout_prefix: str = "/0."
    #: Routing keys are in the names of channels.
    fanout_patterns: bool = True
    unacked_key: str = names.UNACKED
    unacked_since_key: str = names.UNACKED_INDEX
    max_message_size: int = MAX_MESSAGE_SIZE


def parse(url: str, options: Mapping[str, Any]) -> Options:
    """Read a URL and options; options that do not concern Redis are left alone."""
    connection = _connection(url, tls=options.get("use_ssl"))
    timeout = float(options.get("socket_timeout") or SOCKET_TIMEOUT)
    connect_timeout = options.get("connect_timeout") or CONNECT_TIMEOUT
    connection.setdefault("socket_connect_timeout", connect_timeout)
    for name in _CONNECTION_OPTIONS:
        if options.get(name) is not None:
            connection[name] = options[name]
    return Options(
        connection=connection,
        display_url=_without_password(url),
        clock=options.get("clock") or SYSTEM_CLOCK,
        socket_timeout=float(connection.pop("socket_timeout", timeout)),
        global_keyprefix=options.get("global_keyprefix", ""),
        result_keyprefix=_result_prefix(options.get("result_keyprefix", "")),
        sep=options.get("sep", BUCKET_SEPARATOR),
        priority_steps=_steps(options.get("priority_steps", PRIORITY_STEPS)),
        highest_priority=_one_of("highest_priority", options.get("highest_priority", 0), (0, 9)),
        park_unserved=bool(options.get("park_unserved")),
        polling_interval=float(options.get("polling_interval") or POLLING_INTERVAL),
        visibility_timeout=float(options.get("visibility_timeout", VISIBILITY_TIMEOUT)),
        fanout_prefix=_fanout_prefix(options.get("fanout_prefix", True), connection.get("db") or 0),
        fanout_patterns=bool(options.get("fanout_patterns", True)),
        unacked_key=options.get(names.UNACKED_OPTION, names.UNACKED),
        unacked_since_key=options.get(names.UNACKED_INDEX_OPTION, names.UNACKED_INDEX),
        max_message_size=int(options.get("max_message_size", MAX_MESSAGE_SIZE)),
    )


def _connection(url: str, *, tls: Any) -> dict[str, Any]:
    url = _normal(url)
    if tls and url.startswith("redis:"):
        url = f"rediss:{url.removeprefix('redis:')}"
    try:
        parsed: dict[str, Any] = cast("Any", parse_url)(url)
    except ValueError as error:
        raise ImproperlyConfigured(f"{_without_password(url)}: {error}") from error
    if isinstance(tls, Mapping):
        parsed |= {f"ssl_{name.removeprefix('ssl_')}": value for name, value in tls.items()}
    return parsed


def _normal(url: str) -> str:
    """Rewrite Celery's URLs of Unix sockets and databases into those redis-py reads."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme == "sentinel":
        raise ImproperlyConfigured(
            "sentinel:// is not supported yet: expected redis:// or rediss://"
        )
    if scheme == "redis+socket":
        scheme = "unix"
    query = [
        ("db" if name == "virtual_host" else name, value) for name, value in parse_qsl(parts.query)
    ]
    rest = urlunsplit(("", parts.netloc, parts.path, urlencode(query), ""))
    return f"{scheme}:{rest if parts.netloc else '//' + rest.removeprefix('//')}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user:
        user = user.partition(":")[0] + ":**"
    query = [
        (name, "**" if name == "password" else value) for name, value in parse_qsl(parts.query)
    ]
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=urlencode(query, safe="*/")))


def _result_prefix(prefix: str) -> str:
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"


def _fanout_prefix(prefix: Any, database: int) -> str:
    """Return it as kombu reads it; "{db}" in it is the database, which channels do not know."""
    if prefix is True:
        prefix = "/{db}."
    return str(prefix).format(db=database) if prefix else ""


def _steps(steps: Any) -> tuple[int, ...]:
    sorted_steps = tuple(sorted({int(step) for step in steps}))
    if not sorted_steps or sorted_steps[0] != 0:
        raise ImproperlyConfigured(f"priority_steps: expected steps from 0 on, got {steps!r}")
    return sorted_steps


def _one_of(name: str, value: Any, allowed: tuple[int, ...]) -> int:
    if value not in allowed:
        raise ImproperlyConfigured(f"{name}: expected one of {allowed}, got {value!r}")
    return int(value)
