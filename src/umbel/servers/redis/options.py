"""What a Redis URL and the transport options say: where the server is, how keys are laid out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
SENTINEL_PORT = 26379
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

#: Between several URLs; a password may have one too.
_SEPARATOR = re.compile(r";(?=[a-z+]+://)")
#: What sentinels tell instead of the URL.
_PLACE = ("host", "port")
#: What of a connection says where it leads.
_IDENTITY = frozenset({*_PLACE, "path", "username", "password", "connection_class"})


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Redis Sentinels, who watch over a master and name another when it fails."""

    addresses: tuple[tuple[str, int], ...]
    #: The name under which they watch it.
    master: str
    #: For redis-py's connections to them: password, TLS, ….
    connection: Mapping[str, Any]
    #: How many others a sentinel must see so that its word counts.
    min_other_sentinels: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """All that is configured about one server. Names are those of ``broker_transport_options``."""

    #: For redis-py's connection class: host, port, db, password, TLS, ….
    connection: Mapping[str, Any]
    display_url: str
    #: Further places where the server may be: of all, the one that is no replica is taken.
    others: tuple[Mapping[str, Any], ...] = ()
    #: Who knows where the server is now; then the connection names no host.
    sentinels: Sentinels | None = None
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

    @property
    def database(self) -> int:
        """The number of the database."""
        return int(self.connection.get("db") or 0)

    @property
    def server(self) -> tuple[object, ...]:
        """What says which server it is and who we are there, whatever the database."""
        places = [
            {name: each[name] for name in each if name in _IDENTITY or name.startswith("ssl_")}
            for each in (self.connection, *self.others)
        ]
        return places, self.sentinels


def parse(url: str, options: Mapping[str, Any]) -> Options:
    """Read a URL, or several with ";" between them, and options; those of others are left alone."""
    urls = _SEPARATOR.split(url)
    connection, *others = [_connection(each, options) for each in urls]
    timeout = float(options.get("socket_timeout") or SOCKET_TIMEOUT)
    sentinels = None
    if urlsplit(urls[0]).scheme == "sentinel":
        sentinels = _sentinels(urls, options)
        connection = {name: value for name, value in connection.items() if name not in _PLACE}
        others = []
    return Options(
        connection=connection,
        display_url=";".join(map(_without_password, urls)),
        others=tuple(others),
        sentinels=sentinels,
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


def _connection(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    url, tls = _normal(url), options.get("use_ssl")
    if tls and url.startswith("redis:"):
        url = f"rediss:{url.removeprefix('redis:')}"
    try:
        parsed: dict[str, Any] = cast("Any", parse_url)(url)
    except ValueError as error:
        raise ImproperlyConfigured(f"{_without_password(url)}: {error}") from error
    if isinstance(tls, Mapping):
        parsed |= {f"ssl_{name.removeprefix('ssl_')}": value for name, value in tls.items()}
    parsed.setdefault("socket_connect_timeout", options.get("connect_timeout") or CONNECT_TIMEOUT)
    given = {name: options[name] for name in _CONNECTION_OPTIONS if options.get(name) is not None}
    return parsed | given


def _normal(url: str) -> str:
    """Rewrite Celery's URLs of Unix sockets, databases and sentinels into those redis-py reads."""
    parts = urlsplit(url)
    scheme = {"redis+socket": "unix", "sentinel": "redis"}.get(parts.scheme, parts.scheme)
    query = [
        ("db" if name == "virtual_host" else name, _value(name, value))
        for name, value in parse_qsl(parts.query)
    ]
    rest = urlunsplit(("", parts.netloc, parts.path, urlencode(query), ""))
    return f"{scheme}:{rest if parts.netloc else '//' + rest.removeprefix('//')}"


def _value(name: str, value: str) -> str:
    return value.lower().removeprefix("cert_") if name == "ssl_cert_reqs" else value


def _sentinels(urls: Sequence[str], options: Mapping[str, Any]) -> Sentinels:
    master = options.get("master_name")
    if not master:
        raise ImproperlyConfigured(
            "sentinel:// needs broker_transport_options['master_name'], the name under which the "
            "sentinels watch the server"
        )
    places = [urlsplit(each) for each in urls]
    return Sentinels(
        tuple((each.hostname or "localhost", each.port or SENTINEL_PORT) for each in places),
        master,
        options.get("sentinel_kwargs") or {},
        int(options.get("min_other_sentinels", 0)),
    )


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
