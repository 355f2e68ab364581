"""Results as a worker stores them, in this process or in another one.

``python -m tests.results URL`` stores what it is told on its standard input: a JSON line
``[ids, state, value]`` at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from umbel import servers
from umbel.bridge import ResultBridge
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


def nothing_left(bridge: ResultBridge) -> bool:
    """Tell whether nobody waits, and nothing is kept of those who did."""
    tables = bridge._waiting, bridge._new, bridge._gone, bridge._asleep, bridge._passive
    return not any(tables) and bridge._leader is None and not bridge.bells


class Writer:
    """A process that stores what it is told."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.results", url],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            text=True,
        )
        self._writing = threading.Lock()

    def store(self, *task_ids: str, state: str = SUCCESS, value: object = 1) -> None:
        """Have it stored soon. Any thread."""
        assert self._process.stdin is not None
        with self._writing:
            self._process.stdin.write(json.dumps([task_ids, state, value]) + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """Let it end when it has stored everything."""
        self._process.communicate()


def main(url: str) -> None:
    server = servers.open(url)
    for line in sys.stdin:
        task_ids, state, value = json.loads(line)
        put(server.results, *task_ids, state=state, value=value)
    server.close()


if __name__ == "__main__":
    main(sys.argv[1])
