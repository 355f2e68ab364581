"""Settings of the application: content, time, imports, security, broker, results."""

from __future__ import annotations

from umbel.settings.kinds import (
    ANYTHING,
    BOOLEAN,
    INTEGER,
    MAPPING,
    NAMES,
    NUMBER,
    OURS,
    SECONDS,
    TEXT,
    TLS,
    URLS,
    ZONE,
    Missing,
    Setting,
    Unused,
    choice,
    optional,
    or_zero,
)

_RETRIES = "A worker tries to store a result until its lease ends, with growing pauses."
_NO_DATABASE = (
    "umbel keeps results on SQLite, Redis or RabbitMQ; a result_backend of SQLAlchemy is an error."
)
_UNSIGNED = "umbel signs no messages and checks no signatures: let only trusted programs connect."
_NO_JOIN = "No process waits or polls for a chord: its last member's commit completes it."


class General:
    """General."""

    __slots__ = ()

    accept_content = Setting(NAMES, ("json",), "Content types that are read, by name or MIME type.")
    result_accept_content = Setting(
        optional(NAMES), None, "Content types of results that are read; None = result_serializer's."
    )
    enable_utc = Setting(BOOLEAN, True, "Times in messages are UTC.")
    timezone = Setting(
        optional(ZONE),
        None,
        "Zone of naive times; None = UTC. Django's TIME_ZONE is taken too.",
        old="TIME_ZONE",
    )
    imports = Setting(NAMES, (), "Modules a worker imports.")
    include = Setting(NAMES, (), "More modules a worker imports.")


class Broker:
    """Broker."""

    __slots__ = ()

    broker_url = Setting(
        URLS,
        "sqlite://",
        "Where messages wait; sqlite:// is the file of the project. RabbitMQ and Redis take "
        "several URLs, tried in their order.",
        celery="amqp://",
        old="broker_host BROKER_HOST",
    )
    broker_read_url = Setting(
        optional(URLS), None, "The same broker's address for workers; None = broker_url."
    )
    broker_write_url = Setting(
        optional(URLS), None, "The same broker's address for other programs; None = broker_url."
    )
    broker_transport = Setting(optional(TEXT), None, "Scheme, where broker_url has none.")
    broker_port = Setting(optional(INTEGER), None, "Port, where broker_url has none.")
    broker_user = Setting(optional(TEXT), None, "User, where broker_url has none.")
    broker_password = Setting(
        optional(TEXT), None, "Password, where broker_url has none.", secret=True
    )
    broker_vhost = Setting(
        optional(TEXT), None, "Virtual host or database, where broker_url has none."
    )
    broker_transport_options = Setting(
        MAPPING, {}, "Options of the server's driver; they overrule the settings below."
    )
    broker_connection_timeout = Setting(SECONDS, 4.0, "Seconds to connect.")
    broker_use_ssl = Setting(
        TLS,
        False,
        "TLS: True, or a dict with keyfile, certfile, ca_certs, cert_reqs. rediss:// and amqps:// "
        "switch it on too.",
    )
    broker_heartbeat = Setting(
        optional(SECONDS),
        60.0,
        "Seconds between a worker's AMQP heartbeats; 0 = none.",
        celery=120.0,
    )
    broker_login_method = Setting(
        optional(choice("PLAIN", "AMQPLAIN", "EXTERNAL")),
        None,
        "How RabbitMQ is told who we are; EXTERNAL = by our TLS certificate.",
    )
    broker_failover_strategy = Setting(
        optional(choice("round-robin", "shuffle")),
        None,
        "Order in which several URLs are tried; None = round-robin.",
    )
    broker_connection_retry_on_startup = Setting(
        BOOLEAN, True, "A worker that starts waits for its broker.", celery=None
    )
    broker_connection_max_retries = Setting(
        optional(INTEGER), None, "How often it tries again then; None = for ever.", celery=100
    )

    broker_connection_retry = Unused(
        BOOLEAN, True, "A worker always connects again; its lease says how long it may take."
    )
    broker_channel_error_retry = Unused(BOOLEAN, False, "A worker always opens its channel again.")
    broker_heartbeat_checkrate = Unused(
        SECONDS, 3.0, "Heartbeats are looked at as often as AMQP demands."
    )
    broker_pool_limit = Unused(
        optional(INTEGER),
        10,
        "Connections are opened as they are needed, and all threads share them.",
    )
    broker_pool_acquire_timeout = Unused(
        optional(SECONDS), None, "There is no pool to wait for; task_publish_timeout is the limit."
    )
    broker_native_delayed_delivery_queue_type = Unused(
        choice("quorum", "classic"),
        "quorum",
        "Only quorum queues pass messages on without loss.",
    )


class Results:
    """Results."""

    __slots__ = ()

    ledger_url = Setting(
        optional(TEXT),
        None,
        "Where a broker without a place for it (RabbitMQ) keeps crash counts, dead letters and "
        "revocations; None = beside the results, if they are on another server.",
        celery=OURS,
    )
    result_backend = Setting(
        optional(TEXT),
        None,
        "Where results are kept; None = on the broker's server (RabbitMQ: rpc://).",
    )
    result_backend_transport_options = Setting(
        MAPPING, {}, "Options of the result store's driver; they overrule the settings below."
    )
    result_serializer = Setting(TEXT, "json", "Serializer of results.")
    result_compression = Setting(
        optional(TEXT), None, "Compression of results: zlib, bzip2 or zstd."
    )
    result_expires = Setting(
        or_zero(SECONDS),
        86400.0,
        "Seconds after which a result is deleted; None or 0 = never.",
        old="CELERY_TASK_RESULT_EXPIRES",
    )
    result_failure_expires = Setting(
        or_zero(SECONDS), None, "The same for failures; None = as result_expires."
    )
    result_extended = Setting(
        BOOLEAN, False, "Results keep name, arguments, worker, retries and queue as well."
    )

    result_cache_max = Unused(
        INTEGER,
        -1,
        "A result object keeps its own result; a caller of rpc:// the last 100,000.",
        old="CELERY_MAX_CACHED_RESULTS",
    )
    result_persistent = Unused(
        optional(BOOLEAN), None, "The queue of an rpc:// caller ends with it, and its results too."
    )
    result_exchange = Unused(
        TEXT, "celeryresults", "Results of rpc:// go to their caller's queue directly."
    )
    result_exchange_type = Unused(
        TEXT, "direct", "Results of rpc:// go to their caller's queue directly."
    )
    result_backend_always_retry = Unused(BOOLEAN, False, _RETRIES)
    result_backend_max_retries = Unused(NUMBER, float("inf"), _RETRIES)
    result_backend_base_sleep_between_retries_ms = Unused(INTEGER, 10, _RETRIES)
    result_backend_max_sleep_between_retries_ms = Unused(INTEGER, 10_000, _RETRIES)
    result_backend_thread_safe = Unused(BOOLEAN, False, "All threads share the store, always.")
    result_chord_join_timeout = Unused(SECONDS, 3.0, _NO_JOIN)
    result_chord_retry_interval = Unused(SECONDS, 1.0, _NO_JOIN)
    result_chord_expires = Setting(
        optional(SECONDS),
        None,
        "Seconds after which a chord that waits for members is forgotten; None = result_expires.",
    )
    override_backends = Unused(
        optional(MAPPING), None, "It names classes of Celery's; a server is named by its URL."
    )


class RedisResults:
    """Results on Redis.

    They concern the server that keeps the results, also where that is the broker's.
    """

    __slots__ = ()

    redis_host = Setting(optional(TEXT), None, "Host of redis:// that names none.")
    redis_port = Setting(optional(INTEGER), None, "Port of redis:// that names none.")
    redis_db = Setting(optional(INTEGER), None, "Database of redis:// that names none.")
    redis_username = Setting(optional(TEXT), None, "User of redis:// that names none.")
    redis_password = Setting(
        optional(TEXT), None, "Password of redis:// that names none.", secret=True
    )
    redis_socket_timeout = Setting(
        optional(SECONDS), None, "Seconds for one operation; None = 30.", celery=120.0
    )
    redis_socket_connect_timeout = Setting(
        optional(SECONDS), None, "Seconds to connect; None = broker_connection_timeout."
    )
    redis_socket_keepalive = Setting(BOOLEAN, False, "TCP keepalive.")
    redis_client_name = Setting(optional(TEXT), None, "Name of the connections, for CLIENT LIST.")
    redis_backend_use_ssl = Setting(
        optional(TLS), None, "TLS, as broker_use_ssl; rediss:// switches it on too."
    )
    redis_backend_credential_provider = Setting(
        ANYTHING, None, "Gives user and password: redis-py's object, or its class's dotted name."
    )

    redis_max_connections = Unused(
        optional(INTEGER), None, "A process opens as many as its threads use at once; 32 stay open."
    )
    redis_retry_on_timeout = Unused(BOOLEAN, False, "What is safe to repeat is repeated, always.")
    redis_backend_health_check_interval = Unused(
        optional(INTEGER), None, "A connection that was idle is looked at before it is used."
    )


class DatabaseResults:
    """Results in databases, through SQLAlchemy."""

    __slots__ = ()

    database_url = Missing(optional(TEXT), None, _NO_DATABASE, old="CELERY_RESULT_DBURI")
    database_engine_options = Missing(
        MAPPING,
        {"pool_pre_ping": True, "pool_recycle": 3600},
        _NO_DATABASE,
        old="CELERY_RESULT_ENGINE_OPTIONS",
    )
    database_engine_callback = Missing(ANYTHING, None, _NO_DATABASE)
    database_short_lived_sessions = Missing(
        BOOLEAN, False, _NO_DATABASE, old="CELERY_RESULT_DB_SHORT_LIVED_SESSIONS"
    )
    database_table_names = Missing(
        optional(MAPPING), None, _NO_DATABASE, old="CELERY_RESULT_DB_TABLENAMES"
    )
    database_table_schemas = Missing(optional(MAPPING), None, _NO_DATABASE)
    database_create_tables_at_setup = Missing(BOOLEAN, True, _NO_DATABASE)


class Security:
    """Signed messages."""

    __slots__ = ()

    security_key = Missing(optional(TEXT), None, _UNSIGNED, secret=True)
    security_key_password = Missing(optional(TEXT), None, _UNSIGNED, secret=True)
    security_certificate = Missing(optional(TEXT), None, _UNSIGNED)
    security_cert_store = Missing(optional(TEXT), None, _UNSIGNED)
    security_digest = Missing(TEXT, "sha256", _UNSIGNED)
