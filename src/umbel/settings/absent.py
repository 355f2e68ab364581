"""Settings of mechanisms that umbel does not have: accepted, so that a configuration can be kept.

Each note says why nothing is missing. Values are checked all the same.
"""

from __future__ import annotations

from umbel.settings.kinds import (
    ANYTHING,
    BOOLEAN,
    INTEGER,
    MAPPING,
    NAMES,
    NUMBER,
    SECONDS,
    TEXT,
    Unused,
    optional,
)

_STORE = "umbel keeps no results there; a result_backend that names it is an error."
_WINDOW = "How much a worker holds is measured in time: see worker_window."
_PARTS = "The worker has no parts to be replaced."
_EVENTS = "No program of umbel writes events to a file."
_TEXT = optional(TEXT)
_INTEGER = optional(INTEGER)
_MAPPING = optional(MAPPING)


class Mechanisms:
    """Mechanisms of Celery's worker that umbel does not have."""

    __slots__ = ()

    worker_prefetch_multiplier = Unused(INTEGER, 4, _WINDOW)
    worker_enable_prefetch_count_reduction = Unused(BOOLEAN, True, _WINDOW)
    worker_detect_quorum_queues = Unused(BOOLEAN, True, "Prefetch limits are set per consumer.")
    worker_eta_task_limit = Unused(
        _INTEGER, None, "Delayed messages wait in the broker, not in a worker's memory."
    )
    worker_deduplicate_successful_tasks = Unused(
        BOOLEAN, False, "A task's result and the end of its message are one commit."
    )
    worker_lost_wait = Unused(
        SECONDS, 10.0, "A process that died is noticed at once.", old="CELERYD_WORKER_LOST_WAIT"
    )
    worker_state_db = Unused(_TEXT, None, "Revoked ids are kept by the broker's server.")
    worker_timer_precision = Unused(SECONDS, 1.0, "Nothing is looked for at intervals.")
    worker_proc_alive_timeout = Unused(SECONDS, 4.0, "A process says itself when it is ready.")
    worker_cancel_long_running_tasks_on_connection_loss = Unused(
        BOOLEAN, False, "A task runs to its end; its outcome counts if its lease has held."
    )
    worker_enable_soft_shutdown_on_idle = Unused(
        BOOLEAN, False, "A worker without running tasks has nothing to wait for."
    )
    worker_pool_restarts = Unused(BOOLEAN, False, "HUP starts the worker anew.")
    worker_pool_putlocks = Unused(BOOLEAN, True, "Processes take their messages themselves.")
    worker_pool_start_method = Unused(
        TEXT, "fork", "Processes are forked; after the import of the application if that is safe."
    )
    worker_autoscaler = Unused(TEXT, "celery.worker.autoscale:Autoscaler", _PARTS)
    worker_consumer = Unused(TEXT, "celery.worker.consumer:Consumer", _PARTS)
    worker_timer = Unused(_TEXT, None, _PARTS)
    worker_agent = Unused(_TEXT, None, _PARTS)
    events_logfile = Unused(_TEXT, None, _EVENTS)
    events_pidfile = Unused(_TEXT, None, _EVENTS)
    events_uid = Unused(ANYTHING, None, _EVENTS)
    events_gid = Unused(ANYTHING, None, _EVENTS)
    events_umask = Unused(ANYTHING, None, _EVENTS)
    events_executable = Unused(_TEXT, None, _EVENTS)


class Stores:
    """Other vendors' result stores."""

    __slots__ = ()

    cache_backend = Unused(_TEXT, None, _STORE)
    cache_backend_options = Unused(MAPPING, {}, _STORE)
    mongodb_backend_settings = Unused(_MAPPING, None, _STORE)
    couchbase_backend_settings = Unused(_MAPPING, None, _STORE)
    arangodb_backend_settings = Unused(_MAPPING, None, _STORE)
    cassandra_servers = Unused(optional(NAMES), None, _STORE)
    cassandra_secure_bundle_path = Unused(_TEXT, None, _STORE)
    cassandra_bundle_path = Unused(_TEXT, None, _STORE)
    cassandra_port = Unused(ANYTHING, None, _STORE)
    cassandra_keyspace = Unused(_TEXT, None, _STORE)
    cassandra_table = Unused(_TEXT, None, _STORE, old="CASSANDRA_COLUMN_FAMILY")
    cassandra_read_consistency = Unused(_TEXT, None, _STORE)
    cassandra_write_consistency = Unused(_TEXT, None, _STORE)
    cassandra_entry_ttl = Unused(optional(SECONDS), None, _STORE)
    cassandra_auth_provider = Unused(_TEXT, None, _STORE)
    cassandra_auth_kwargs = Unused(ANYTHING, None, _STORE, secret=True)
    cassandra_options = Unused(MAPPING, {}, _STORE)
    s3_access_key_id = Unused(_TEXT, None, _STORE, secret=True)
    s3_secret_access_key = Unused(_TEXT, None, _STORE, secret=True)
    s3_bucket = Unused(_TEXT, None, _STORE)
    s3_base_path = Unused(_TEXT, None, _STORE)
    s3_endpoint_url = Unused(_TEXT, None, _STORE)
    s3_region = Unused(_TEXT, None, _STORE)
    azureblockblob_container_name = Unused(TEXT, "celery", _STORE)
    azureblockblob_base_path = Unused(TEXT, "", _STORE)
    azureblockblob_retry_initial_backoff_sec = Unused(INTEGER, 2, _STORE)
    azureblockblob_retry_increment_base = Unused(INTEGER, 2, _STORE)
    azureblockblob_retry_max_attempts = Unused(INTEGER, 3, _STORE)
    azureblockblob_connection_timeout = Unused(INTEGER, 20, _STORE)
    azureblockblob_read_timeout = Unused(INTEGER, 120, _STORE)
    gcs_bucket = Unused(_TEXT, None, _STORE)
    gcs_project = Unused(_TEXT, None, _STORE)
    gcs_base_path = Unused(TEXT, "", _STORE)
    gcs_ttl = Unused(NUMBER, 0.0, _STORE)
    elasticsearch_retry_on_timeout = Unused(optional(BOOLEAN), None, _STORE)
    elasticsearch_max_retries = Unused(_INTEGER, None, _STORE)
    elasticsearch_timeout = Unused(optional(SECONDS), None, _STORE)
    elasticsearch_save_meta_as_text = Unused(BOOLEAN, True, _STORE)
    cosmosdbsql_database_name = Unused(TEXT, "celerydb", _STORE)
    cosmosdbsql_collection_name = Unused(TEXT, "celerycol", _STORE)
    cosmosdbsql_consistency_level = Unused(TEXT, "Session", _STORE)
    cosmosdbsql_max_retry_attempts = Unused(INTEGER, 9, _STORE)
    cosmosdbsql_max_retry_wait_time = Unused(INTEGER, 30, _STORE)
