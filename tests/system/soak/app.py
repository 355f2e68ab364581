"""The application of the soak: tasks of each kind that say in a journal that they ran.

The journal is a file outside of the system, with a 64-bit number for each run. It is opened with
O_APPEND and has one ``write`` per run: records do not mix, and outlive the process that wrote them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from umbel import Umbel

app = Umbel(
    "soak",
    broker=os.environ["SOAK_BROKER"],
    worker_lease=3.0,
    result_expires=60,
    # What is killed runs again, however often: here everything is killed all the time.
    task_max_deliveries=100,
)
_journal = os.open(os.environ["SOAK_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _ran(number: int) -> None:
    os.write(_journal, number.to_bytes(8, sys.byteorder))


@app.task(name="soak.work")
def work(number: int) -> int:
    _ran(number)
    return number


@app.task(name="soak.doze")
async def doze(number: int) -> int:
    _ran(number)
    return number


@app.task(name="soak.hesitate", bind=True)
def hesitate(self: Any, number: int) -> int:
    """Run only when tried again."""
    if not self.request.retries:
        raise self.retry(countdown=0.5)
    _ran(number)
    return number
