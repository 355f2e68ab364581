"""Settings of tasks and of the programs that run and send them: worker, beat."""

from __future__ import annotations

from umbel.settings.kinds import (
    ANYTHING,
    BOOLEAN,
    CONCURRENCY,
    INTEGER,
    LASTING,
    MAPPING,
    NUMBER,
    OURS,
    RATE,
    SECONDS,
    TEXT,
    Missing,
    Setting,
    Unused,
    choice,
    optional,
    or_zero,
)

#: Bytes of the largest body that is sent: what RabbitMQ 4 takes by default is the least of all
#: servers, so that a program that works on one works on every one. A body of this size costs each
#: process it passes through several copies; larger data belong into a store, with a reference sent.
LARGEST_MESSAGE = 16 * 1024 * 1024

_EXCHANGE_TYPE = choice("direct", "topic", "fanout", "headers")
_MODES = {1: "transient", 2: "persistent", "1": "transient", "2": "persistent"}

_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
_TASK_FORMAT = (
    "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
)

_NO_EVENTS = "umbel sends no events: `umbel top`, `umbel queues` and `umbel why` need none."
_OWN_QUEUE = "Who listens to commands has a queue as Celery's defaults make it."


class Sending:
    """Tasks: sending."""

    __slots__ = ()

    task_serializer = Setting(TEXT, "json", "Serializer of arguments.")
    task_compression = Setting(
        optional(TEXT),
        None,
        "Compression of arguments: zlib, bzip2 or zstd.",
        old="CELERY_MESSAGE_COMPRESSION",
    )
    task_publish_retry = Setting(
        BOOLEAN, True, "Sending is tried again while the broker cannot be reached."
    )
    task_publish_retry_policy = Setting(
        MAPPING,
        {},
        "Limits for that: max_retries, interval_start, interval_step, interval_max; "
        "empty = until task_publish_timeout.",
        celery={"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
    )
    task_publish_timeout = Setting(
        SECONDS, 5.0, "Seconds until sending is given up with an error.", celery=OURS
    )
    task_max_message_size = Setting(
        optional(INTEGER),
        LARGEST_MESSAGE,
        "Bytes a message's body may have; None = any number.",
        celery=OURS,
    )
    task_protocol = Setting(
        choice(2, also={"2": 2}), 2, "Message format that is sent; 1 and 2 are read."
    )

    task_send_sent_event = Missing(BOOLEAN, False, _NO_EVENTS, old="CELERY_SEND_TASK_SENT_EVENT")
    task_repr_maxlevels = Unused(
        INTEGER, 3, "Arguments are shown to a depth of six, in a text of bounded size."
    )


class Routing:
    """Tasks: where to."""

    __slots__ = ()

    task_queues = Setting(ANYTHING, None, "Queues a worker consumes unless told otherwise.")
    task_routes = Setting(ANYTHING, None, "Which task goes to which queue.")
    task_default_queue = Setting(TEXT, "celery", "Queue of tasks that nothing else routes.")
    task_default_queue_type = Setting(TEXT, "classic", "Its type on RabbitMQ.")
    task_default_exchange = Setting(
        optional(TEXT), None, "Exchange of queues that name none; None = as task_default_queue."
    )
    task_default_exchange_type = Setting(_EXCHANGE_TYPE, "direct", "Type of that exchange.")
    task_default_routing_key = Setting(
        optional(TEXT), None, "Routing key of queues that name none; None = as task_default_queue."
    )
    task_default_delivery_mode = Setting(
        choice("persistent", "transient", also=_MODES),
        "persistent",
        "Whether messages survive a restart of RabbitMQ.",
    )
    task_create_missing_queues = Setting(
        BOOLEAN, True, "A queue that task_queues does not name is made when first used."
    )
    task_create_missing_queue_type = Setting(
        TEXT, "classic", "Type of queues made so, on RabbitMQ."
    )
    task_create_missing_queue_exchange_type = Setting(
        optional(_EXCHANGE_TYPE), None, "Exchange type of queues made so; None = direct."
    )
    task_queue_max_priority = Setting(
        optional(INTEGER), None, "Highest priority of queues that set none, on RabbitMQ."
    )
    task_default_priority = Setting(
        optional(INTEGER), None, "Priority of tasks that set none; None = 0."
    )
    task_inherit_parent_priority = Setting(
        BOOLEAN, False, "Tasks sent by a task have its priority, unless they set one."
    )
    worker_direct = Setting(
        BOOLEAN,
        False,
        "Each worker consumes a queue of its own too: <node>.dq2, exchange C.dq2, key <node>.",
    )


class Running:
    """Tasks: running."""

    __slots__ = ()

    task_annotations = Setting(ANYTHING, None, "Task attributes by task name, '*' for all.")
    task_ignore_result = Setting(BOOLEAN, False, "Results are not kept.")
    task_store_errors_even_if_ignored = Setting(BOOLEAN, False, "Failures are kept even so.")
    task_track_started = Setting(BOOLEAN, False, "The state STARTED is stored.")
    task_time_limit = Setting(
        or_zero(SECONDS),
        None,
        "Seconds after which a running task's process is ended.",
        old="CELERYD_TASK_TIME_LIMIT CELERYD_TIME_LIMIT",
    )
    task_soft_time_limit = Setting(
        or_zero(SECONDS),
        None,
        "Seconds after which SoftTimeLimitExceeded is raised in a running task.",
        old="CELERYD_TASK_SOFT_TIME_LIMIT CELERYD_SOFT_TIME_LIMIT",
    )
    task_acks_late = Setting(
        BOOLEAN,
        True,
        "A message is acknowledged after its task has run, not before.",
        celery=False,
    )
    task_acks_on_failure_or_timeout = Setting(
        BOOLEAN,
        True,
        "A message whose task failed or timed out is acknowledged; else it is a dead letter.",
    )
    task_acks_on_failure = Setting(
        optional(BOOLEAN),
        None,
        "The same for exceptions alone; None = as for both.",
    )
    task_acks_on_timeout = Setting(
        optional(BOOLEAN),
        None,
        "The same for time limits alone; None = as for both.",
    )
    task_reject_on_worker_lost = Setting(
        optional(BOOLEAN),
        None,
        "A message whose process died is delivered again; None = as often as "
        "task_max_deliveries, False = never.",
    )
    task_max_deliveries = Setting(
        INTEGER,
        3,
        "Starts that may end with the death of the process; then the dead letters.",
        celery=OURS,
    )
    task_default_rate_limit = Setting(
        optional(RATE),
        None,
        "Rate limit of tasks that set none: starts in one worker, such as '10/m'.",
    )
    task_always_eager = Setting(BOOLEAN, False, "Tasks run where they are called, at once.")
    task_eager_propagates = Setting(
        BOOLEAN,
        False,
        "A task run so raises its exception at the call.",
        old="CELERY_EAGER_PROPAGATES_EXCEPTIONS",
    )
    task_eager_serializes = Setting(
        BOOLEAN,
        True,
        "With task_always_eager, arguments and results are encoded and decoded as if sent.",
        celery=OURS,
    )
    task_store_eager_result = Setting(BOOLEAN, False, "Results of tasks run so are stored.")
    task_whole_chain = Setting(
        INTEGER,
        500,
        "Links of the longest chain that is sent whole; of a longer one a hundred links at a time "
        "are sent, which workers of Celery cannot follow. 0 = all are sent whole.",
        celery=OURS,
    )
    task_allow_error_cb_on_chord_header = Setting(
        BOOLEAN, False, "A chord's errback is called for each member of its header that fails."
    )

    task_remote_tracebacks = Unused(
        BOOLEAN, False, "Errors always show the traceback of the worker."
    )
    task_retry_on_worker_lost = Unused(
        BOOLEAN, False, "The message is delivered again; see task_reject_on_worker_lost."
    )


class Worker:
    """Worker."""

    __slots__ = ()

    worker_concurrency = Setting(
        CONCURRENCY,
        None,
        "Processes or threads that run tasks; None or 'auto' = as many as there are CPUs.",
    )
    worker_async_concurrency = Setting(
        INTEGER, 10_000, "Coroutine tasks that one process runs at a time.", celery=OURS
    )
    worker_pool = Setting(
        choice("prefork", "threads", "solo", also={"processes": "prefork"}),
        "prefork",
        "How tasks run.",
    )
    worker_max_tasks_per_child = Setting(
        optional(INTEGER), None, "Tasks after which a process is replaced by a fresh one."
    )
    worker_max_memory_per_child = Setting(
        optional(INTEGER), None, "KiB of memory over which a process is replaced by a fresh one."
    )
    worker_lease = Setting(
        LASTING,
        15.0,
        "Seconds within which the messages of a worker that died go to others.",
        celery=OURS,
    )
    worker_window = Setting(
        NUMBER, 0.1, "Seconds of work a process holds beyond what it runs.", celery=OURS
    )
    worker_disable_prefetch = Setting(
        BOOLEAN, False, "A process holds nothing beyond what it runs; as worker_window = 0."
    )
    worker_soft_shutdown_timeout = Setting(
        SECONDS, 8.0, "Seconds running tasks get at shutdown.", celery=0.0
    )
    worker_disable_rate_limits = Setting(
        BOOLEAN, False, "Rate limits have no effect.", old="CELERY_DISABLE_RATE_LIMITS"
    )
    worker_logfile = Setting(optional(TEXT), None, "File that the log goes to.")
    worker_pidfile = Setting(optional(TEXT), None, "File that has the process's number.")
    worker_uid = Setting(ANYTHING, None, "User that a worker becomes.")
    worker_gid = Setting(ANYTHING, None, "Group that a worker becomes.")
    worker_umask = Setting(ANYTHING, None, "File mode mask of a worker.")
    worker_executable = Unused(
        optional(TEXT), None, "In the background it is the same process, so the same Python."
    )


class Logging:
    """Worker: logs."""

    __slots__ = ()

    worker_hijack_root_logger = Setting(
        BOOLEAN,
        False,
        "The worker sets up the root logger too, so that every logger's lines are shown.",
        celery=True,
    )
    worker_log_format = Setting(
        optional(TEXT), None, "Format of log lines; None = Celery's.", celery=_FORMAT
    )
    worker_task_log_format = Setting(
        optional(TEXT), None, "Format of log lines in tasks; None = Celery's.", celery=_TASK_FORMAT
    )
    worker_log_datefmt = Setting(optional(TEXT), None, "Format of their times.")
    worker_task_log_datefmt = Setting(optional(TEXT), None, "Format of the times in tasks.")
    worker_log_color = Setting(
        optional(BOOLEAN), None, "Lines that stand out are coloured; None = on a terminal."
    )
    worker_redirect_stdouts = Setting(
        BOOLEAN, True, "What tasks print goes to the log.", old="CELERY_REDIRECT_STDOUTS"
    )
    worker_redirect_stdouts_level = Setting(
        TEXT, "WARNING", "Its level there.", old="CELERY_REDIRECT_STDOUTS_LEVEL"
    )


class Control:
    """Worker: events and remote control."""

    __slots__ = ()

    worker_send_task_events = Missing(BOOLEAN, False, _NO_EVENTS, old="CELERY_SEND_EVENTS")
    event_exchange = Missing(TEXT, "celeryev", _NO_EVENTS)
    event_serializer = Missing(TEXT, "json", _NO_EVENTS)
    event_queue_prefix = Missing(TEXT, "celeryev", _NO_EVENTS)
    event_queue_ttl = Missing(optional(SECONDS), 5.0, _NO_EVENTS)
    event_queue_expires = Missing(optional(SECONDS), 60.0, _NO_EVENTS)
    event_queue_durable = Missing(BOOLEAN, False, _NO_EVENTS)
    event_queue_exclusive = Missing(BOOLEAN, True, _NO_EVENTS)
    worker_enable_remote_control = Setting(
        BOOLEAN,
        True,
        "A worker listens to remote control: ping, revoke and terminate.",
        old="CELERY_ENABLE_REMOTE_CONTROL",
    )
    control_exchange = Setting(
        TEXT, "celery", "Begins the names of the exchanges that commands go through."
    )
    control_queue_ttl = Unused(SECONDS, 300.0, _OWN_QUEUE)
    control_queue_expires = Unused(SECONDS, 10.0, _OWN_QUEUE)
    control_queue_durable = Unused(BOOLEAN, False, _OWN_QUEUE)
    control_queue_exclusive = Unused(BOOLEAN, True, _OWN_QUEUE)


class Beat:
    """Periodic tasks."""

    __slots__ = ()

    beat_schedule = Setting(MAPPING, {}, "What is sent when: entries by name.")
    beat_scheduler = Setting(
        TEXT,
        "celery.beat:PersistentScheduler",
        "A source of further entries, as module:name; Celery's own schedulers are left aside.",
    )
    beat_schedule_filename = Unused(
        TEXT, "celerybeat-schedule", "What is known of past runs is kept on the broker's server."
    )
    beat_sync_every = Unused(INTEGER, 0, "Each run is recorded by the step that sends it.")
    beat_max_loop_interval = Setting(
        SECONDS, 0.0, "Most seconds until a change of the schedule is noticed; 0 = 1."
    )
    beat_cron_starting_deadline = Setting(
        optional(INTEGER), None, "Seconds after which a crontab's run is not sent any more."
    )
    beat_name = Setting(
        optional(TEXT),
        None,
        "Schedulers of one name send a schedule once among them; otherwise the application's name.",
        celery=OURS,
    )
    beat_lease = Setting(
        LASTING, 6.0, "Seconds after which another takes over from a leader that died.", celery=OURS
    )
    beat_late_after = Setting(
        SECONDS, 1.0, "Seconds from which on the log tells of a run that is sent late.", celery=OURS
    )
    beat_enable_remote_control = Setting(
        BOOLEAN, False, "Beat answers `ping`, as workers do: whether it lives can be asked."
    )
    beat_remote_control_max_tick_age = Setting(
        optional(SECONDS), None, "Seconds at a stand after which it does not; None = 60, 0 = any."
    )
    beat_logfile = Setting(optional(TEXT), None, "File that the log goes to.")
    beat_pidfile = Setting(optional(TEXT), None, "File that has the process's number.")
    beat_uid = Setting(ANYTHING, None, "User that beat becomes.")
    beat_gid = Setting(ANYTHING, None, "Group that beat becomes.")
    beat_umask = Setting(ANYTHING, None, "File mode mask of beat.")
    beat_executable = Unused(
        optional(TEXT), None, "In the background it is the same process, so the same Python."
    )
