"""What tests of umbel, of its users and of third-party servers are built from.

``run_until_idle``, ``running_worker``, ``in_memory`` and the assertions are for those who test
programs that use umbel; the pytest plugin (``pytest_umbel``) makes fixtures of them. ``contract``
has the suites that prove what a server promises, ``flaky`` a fault injector around any real server,
``clock`` a clock that tests move, ``probe`` a way to wait for what happened.
No other part of umbel imports this package.
"""

from __future__ import annotations

from umbel.testing.calls import Call, assert_enqueued, enqueued, refute_enqueued
from umbel.testing.clock import FakeClock
from umbel.testing.draining import NotIdle, Run, run_for, run_until_idle
from umbel.testing.isolation import in_memory
from umbel.testing.worker import RunningWorker, running_worker

__all__ = [
    "Call",
    "FakeClock",
    "NotIdle",
    "Run",
    "RunningWorker",
    "assert_enqueued",
    "enqueued",
    "in_memory",
    "refute_enqueued",
    "run_for",
    "run_until_idle",
    "running_worker",
]
