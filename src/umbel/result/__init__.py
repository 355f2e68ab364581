"""Results of tasks, under Celery's names."""

from umbel.result.eager import EagerResult
from umbel.result.graph import ResultGraph
from umbel.result.guard import (
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    task_join_will_block,
)
from umbel.result.record import ResultBase
from umbel.result.results import (
    AsyncResult,
    GroupResult,
    GroupResults,
    ResultSet,
    result_from_tuple,
)
from umbel.result.states import RemoteTraceback, StateChange

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "GroupResults",
    "RemoteTraceback",
    "ResultBase",
    "ResultGraph",
    "ResultSet",
    "StateChange",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
    "task_join_will_block",
]
