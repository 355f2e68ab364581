"""Results as a worker stores them."""

from __future__ import annotations

from typing import Any

from umbel.message import ResultRecord
from umbel.servers.seams import ResultStore
from umbel.states import SUCCESS
from umbel.wire.result import encode_meta

#: When everything was done.
DONE_AT = 1_800_000_000.5


def meta(task_id: str, state: str = SUCCESS, value: object = 1, **fields: Any) -> bytes:
    """Return the meta of a task."""
    return encode_meta(task_id, state, result=value, date_done=DONE_AT, **fields)


def put(
    store: ResultStore, *task_ids: str, state: str = SUCCESS, value: object = 1, **fields: Any
) -> None:
    """Store the same result for these tasks."""
    metas = [(each, meta(each, state, value, **fields)) for each in task_ids]
    store.put([ResultRecord(task_id, stored, state) for task_id, stored in metas])
