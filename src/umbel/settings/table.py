"""Every setting, one row each: kind, default, what it does, old names, Celery's default.

A new setting is a row here; whoever needs it reads ``app.conf.<name>``. Names, meanings and old
names are Celery's; where the default is another, ``celery`` has Celery's and ``docs/`` says why.
Settings of mechanisms that umbel does not have are rows with ``unused=``: accepted, without effect,
and listed with the reason.
"""

from __future__ import annotations

from typing import Any

from umbel.settings.kinds import (
    ANYTHING,
    BOOLEAN,
    INTEGER,
    MAPPING,
    NAMES,
    NUMBER,
    RATE,
    SECONDS,
    TEXT,
    URLS,
    Setting,
    choice,
    optional,
)

#: Bytes of the largest body that is sent: what RabbitMQ 4 takes by default is the least of all
#: servers, so that a program that works on one works on every one. A body of this size costs each
#: process it passes through several copies; larger data belong into a store, with a reference sent.
LARGEST_MESSAGE = 16 * 1024 * 1024

_EXCHANGE_TYPE = choice("direct", "topic", "fanout", "headers")


class Settings:
    """The table."""

    __slots__ = ()

    # --- what is read and written
    accept_content = Setting(
        NAMES, ("json",), "Content types that are read.", old="CELERY_ACCEPT_CONTENT"
    )
    result_accept_content = Setting(
        optional(NAMES),
        None,
        "Content types of results that are read; None = accept_content.",
        unused="not yet: results are read as result_serializer says, and in no other way",
    )

    # --- time
    enable_utc = Setting(BOOLEAN, True, "Times in messages are UTC.", old="CELERY_ENABLE_UTC")
    timezone = Setting(
        optional(TEXT), None, "Zone of naive times; None = UTC.", old="CELERY_TIMEZONE"
    )

    # --- broker
    broker_url = Setting(
        URLS,
        "sqlite://",
        "Where messages wait; sqlite:// is the file of the project.",
        old="BROKER_URL BROKER_HOST",
        celery="amqp://",
        secret=True,
    )
    broker_transport_options = Setting(
        MAPPING, {}, "Options of the server's driver.", old="BROKER_TRANSPORT_OPTIONS"
    )
    broker_connection_timeout = Setting(
        SECONDS,
        4.0,
        "Seconds to connect.",
        old="BROKER_CONNECTION_TIMEOUT",
        unused="not yet: broker_transport_options has connect_timeout (RabbitMQ) and "
        "socket_connect_timeout (Redis)",
    )
    broker_connection_retry_on_startup = Setting(
        BOOLEAN, True, "A worker that starts waits for its broker.", celery="None"
    )
    broker_use_ssl = Setting(
        ANYTHING,
        False,
        "TLS options.",
        old="BROKER_USE_SSL",
        unused="not yet: a URL that begins with rediss:// or amqps:// switches TLS on",
    )
    broker_heartbeat = Setting(
        optional(SECONDS),
        120.0,
        "Seconds between AMQP heartbeats.",
        old="BROKER_HEARTBEAT",
        unused="not yet: broker_transport_options has heartbeat (RabbitMQ)",
    )

    # --- results
    result_backend = Setting(
        optional(TEXT),
        None,
        "Where results are kept; None = on the broker's server.",
        old="CELERY_RESULT_BACKEND",
        celery="none: no results",
        secret=True,
    )
    result_backend_transport_options = Setting(
        MAPPING,
        {},
        "Options of the result store's driver.",
        old="CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",
    )
    result_serializer = Setting(
        TEXT, "json", "Serializer of results.", old="CELERY_RESULT_SERIALIZER"
    )
    result_compression = Setting(
        optional(TEXT), None, "Compression of results.", old="CELERY_RESULT_COMPRESSION"
    )
    result_expires = Setting(
        optional(SECONDS),
        86400.0,
        "Seconds after which a result is deleted; None = never.",
        old="CELERY_TASK_RESULT_EXPIRES CELERY_RESULT_EXPIRES",
    )
    result_extended = Setting(
        BOOLEAN,
        False,
        "Results keep name, arguments, worker, retries and queue as well.",
        old="CELERY_RESULT_EXTENDED",
    )
    result_persistent = Setting(
        BOOLEAN,
        False,
        "Results of rpc:// survive the broker.",
        old="CELERY_RESULT_PERSISTENT",
        unused="not yet: they do not",
    )
    result_cache_max = Setting(
        INTEGER,
        -1,
        "Results kept in memory.",
        old="CELERY_MAX_CACHED_RESULTS",
        unused="a result object keeps its own result, and nothing else does",
    )
    result_backend_always_retry = Setting(
        BOOLEAN,
        False,
        "Retry storing a result when its server fails.",
        unused="a worker always retries, until its lease ends",
    )

    # --- tasks: sending
    task_serializer = Setting(
        TEXT, "json", "Serializer of arguments.", old="CELERY_TASK_SERIALIZER"
    )
    task_compression = Setting(
        optional(TEXT),
        None,
        "Compression of arguments: zlib, bzip2 or zstd.",
        old="CELERY_MESSAGE_COMPRESSION",
    )
    task_protocol = Setting(
        choice("2"),
        "2",
        "Version of the message format that is sent.",
        unused="version 2 is sent, versions 1 and 2 are read",
    )
    task_publish_retry = Setting(
        BOOLEAN,
        True,
        "Sending is tried again while the broker cannot be reached.",
        old="CELERY_TASK_PUBLISH_RETRY",
    )
    task_publish_retry_policy = Setting(
        MAPPING,
        {},
        "Limits for that: max_retries, interval_start, interval_step, interval_max; "
        "empty = until task_publish_timeout.",
        old="CELERY_TASK_PUBLISH_RETRY_POLICY",
        celery="3 times, 0.2 s more each time",
    )
    task_publish_timeout = Setting(
        SECONDS, 5.0, "Seconds until sending is given up with an error.", celery="no such setting"
    )
    task_max_message_size = Setting(
        optional(INTEGER),
        LARGEST_MESSAGE,
        "Bytes a message's body may have; None = any number.",
        celery="no such setting",
    )
    task_send_sent_event = Setting(
        BOOLEAN,
        False,
        "Send an event for each task sent.",
        old="CELERY_SEND_TASK_SENT_EVENT",
        unused="not yet: no events are sent",
    )

    # --- tasks: where to
    task_queues = Setting(
        ANYTHING, None, "Queues a worker consumes unless told otherwise.", old="CELERY_QUEUES"
    )
    task_routes = Setting(ANYTHING, None, "Which task goes to which queue.", old="CELERY_ROUTES")
    task_create_missing_queues = Setting(
        BOOLEAN,
        True,
        "A queue that task_queues does not name is made when first used.",
        old="CELERY_CREATE_MISSING_QUEUES",
    )
    task_create_missing_queue_type = Setting(
        TEXT, "classic", "Type of queues made so, on RabbitMQ."
    )
    task_create_missing_queue_exchange_type = Setting(
        optional(_EXCHANGE_TYPE), None, "Exchange type of queues made so; None = direct."
    )
    task_default_queue = Setting(
        TEXT, "celery", "Queue of tasks that nothing else routes.", old="CELERY_DEFAULT_QUEUE"
    )
    task_default_queue_type = Setting(TEXT, "classic", "Its type on RabbitMQ.")
    task_default_exchange = Setting(
        optional(TEXT),
        None,
        "Exchange of queues that name none; None = as task_default_queue.",
        old="CELERY_DEFAULT_EXCHANGE",
    )
    task_default_exchange_type = Setting(
        _EXCHANGE_TYPE, "direct", "Type of that exchange.", old="CELERY_DEFAULT_EXCHANGE_TYPE"
    )
    task_default_routing_key = Setting(
        optional(TEXT),
        None,
        "Routing key of queues that name none; None = as task_default_queue.",
        old="CELERY_DEFAULT_ROUTING_KEY",
    )
    task_default_delivery_mode = Setting(
        choice("persistent", "transient"),
        "persistent",
        "Whether messages survive a restart of RabbitMQ.",
        old="CELERY_DEFAULT_DELIVERY_MODE",
    )
    task_default_priority = Setting(
        optional(INTEGER), None, "Priority of tasks that set none; None = 0."
    )
    task_inherit_parent_priority = Setting(
        BOOLEAN, False, "Tasks sent by a task have its priority, unless they set one."
    )
    task_queue_max_priority = Setting(
        optional(INTEGER), None, "Highest priority of queues that set none, on RabbitMQ."
    )

    # --- tasks: running
    task_annotations = Setting(
        ANYTHING, None, "Task attributes by task name, '*' for all.", old="CELERY_ANNOTATIONS"
    )
    task_always_eager = Setting(
        BOOLEAN,
        False,
        "Tasks run where they are called, at once.",
        old="CELERY_ALWAYS_EAGER CELERY_TASK_ALWAYS_EAGER",
    )
    task_eager_propagates = Setting(
        BOOLEAN,
        False,
        "A task run so raises its exception at the call.",
        old="CELERY_EAGER_PROPAGATES_EXCEPTIONS CELERY_EAGER_PROPAGATES",
    )
    task_eager_serializes = Setting(
        BOOLEAN,
        True,
        "With task_always_eager, arguments are encoded and decoded as if they were sent.",
        celery="always so",
    )
    task_store_eager_result = Setting(
        BOOLEAN, False, "Results of tasks run so are stored.", old="CELERY_STORE_EAGER_RESULT"
    )
    task_ignore_result = Setting(
        BOOLEAN, False, "Results are not kept.", old="CELERY_IGNORE_RESULT"
    )
    task_store_errors_even_if_ignored = Setting(
        BOOLEAN,
        False,
        "Failures are kept even so.",
        old="CELERY_STORE_ERRORS_EVEN_IF_IGNORED",
    )
    task_track_started = Setting(
        BOOLEAN, False, "The state STARTED is stored.", old="CELERY_TRACK_STARTED"
    )
    task_time_limit = Setting(
        optional(SECONDS),
        None,
        "Seconds after which a running task's process is ended.",
        old="CELERYD_TASK_TIME_LIMIT CELERY_TASK_TIME_LIMIT",
    )
    task_soft_time_limit = Setting(
        optional(SECONDS),
        None,
        "Seconds after which SoftTimeLimitExceeded is raised in a running task.",
        old="CELERYD_TASK_SOFT_TIME_LIMIT CELERY_TASK_SOFT_TIME_LIMIT",
    )
    task_acks_late = Setting(
        BOOLEAN,
        True,
        "A message is acknowledged after its task has run, not before.",
        old="CELERY_ACKS_LATE",
        celery="False",
    )
    task_acks_on_failure_or_timeout = Setting(
        BOOLEAN,
        True,
        "A message whose task failed is acknowledged; otherwise it goes to the dead letters.",
        old="CELERY_ACKS_ON_FAILURE_OR_TIMEOUT",
    )
    task_reject_on_worker_lost = Setting(
        optional(BOOLEAN),
        None,
        "A message whose process died is delivered again; None = as often as "
        "task_max_deliveries, False = never.",
        old="CELERY_REJECT_ON_WORKER_LOST",
        celery="False",
    )
    task_max_deliveries = Setting(
        INTEGER,
        3,
        "Starts that may end with the death of the process; then the dead letters.",
        celery="no such setting",
    )
    task_default_rate_limit = Setting(
        optional(RATE),
        None,
        "Rate limit of tasks that set none: starts in one worker, such as '10/m'.",
        old="CELERY_DEFAULT_RATE_LIMIT",
    )
    task_remote_tracebacks = Setting(
        BOOLEAN,
        False,
        "Errors show the traceback of the worker.",
        old="CELERY_TASK_REMOTE_TRACEBACKS",
        unused="they always do",
    )

    # --- worker
    imports = Setting(NAMES, (), "Modules a worker imports.", old="CELERY_IMPORTS")
    include = Setting(NAMES, (), "More modules a worker imports.", old="CELERY_INCLUDE")
    worker_concurrency = Setting(
        optional(INTEGER),
        None,
        "Processes or threads that run tasks; None = as many as there are CPUs.",
        old="CELERYD_CONCURRENCY",
    )
    worker_async_concurrency = Setting(
        INTEGER,
        10_000,
        "Coroutine tasks that one process runs at a time.",
        celery="no such setting",
    )
    worker_pool = Setting(
        choice("prefork", "threads", "solo"), "prefork", "How tasks run.", old="CELERYD_POOL"
    )
    worker_prefetch_multiplier = Setting(
        INTEGER,
        4,
        "Messages held per process.",
        old="CELERYD_PREFETCH_MULTIPLIER",
        unused="how much a worker holds is measured in time",
    )
    worker_disable_rate_limits = Setting(
        BOOLEAN,
        False,
        "Rate limits have no effect.",
        old="CELERY_DISABLE_RATE_LIMITS",
    )
    worker_max_tasks_per_child = Setting(
        optional(INTEGER),
        None,
        "Tasks after which a process is replaced by a fresh one.",
        old="CELERYD_MAX_TASKS_PER_CHILD",
    )
    worker_max_memory_per_child = Setting(
        optional(INTEGER),
        None,
        "KiB of memory over which a process is replaced by a fresh one.",
        old="CELERYD_MAX_MEMORY_PER_CHILD",
    )
    worker_hijack_root_logger = Setting(
        BOOLEAN,
        False,
        "The worker sets up the root logger too, so that every logger's lines are shown.",
        old="CELERYD_HIJACK_ROOT_LOGGER",
        celery="True",
    )
    worker_log_format = Setting(
        optional(TEXT), None, "Format of log lines.", old="CELERYD_LOG_FORMAT"
    )
    worker_task_log_format = Setting(
        optional(TEXT), None, "Format of log lines in tasks.", old="CELERYD_TASK_LOG_FORMAT"
    )
    worker_send_task_events = Setting(
        BOOLEAN,
        False,
        "Send an event for each step of a task.",
        old="CELERY_SEND_EVENTS",
        unused="not yet: no events are sent",
    )
    worker_soft_shutdown_timeout = Setting(
        SECONDS, 8.0, "Seconds running tasks get at shutdown.", celery="0.0: not used"
    )
    worker_lease = Setting(
        SECONDS,
        15.0,
        "Seconds after which the messages of a silent worker go to others.",
        celery="no such setting; visibility_timeout is the nearest",
    )
    worker_window = Setting(
        NUMBER,
        0.1,
        "Seconds of work a process holds beyond what it runs.",
        celery="no such setting; worker_prefetch_multiplier is the nearest",
    )


def table() -> dict[str, Setting[Any]]:
    """Return all rows by name."""
    rows = [row for row in vars(Settings).values() if isinstance(row, Setting)]
    return {row.name: row for row in rows}
