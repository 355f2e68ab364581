"""The calling program: sends, waits and times in the system's own environment, as told on stdin.

Started by the harness as ``python -m bench.client <module of apps>``. One JSON object a line comes
in (``{"do": "enqueue", …}``), one goes out (``{"value": …}`` or ``{"error": "…"}``). Only what is
timed in here is what a user's program would see: no part of the harness runs beside it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from bench.apps import Calls

#: Calls whose results `verify` asks for.
KEPT = 50
#: Arguments of a task by name, from the number of the call and the size of its payload (of
#: ``rest``: its microseconds).
ARGUMENTS: dict[str, Callable[[int, int], tuple[Any, ...]]] = {
    "noop": lambda number, _size: (number,),
    "take": lambda _number, size: ("x" * size,),
    "stamp": lambda _number, _size: (time.monotonic_ns(),),
    "nap": lambda _number, _size: (1.0,),
    "rest": lambda _number, size: (size / 1e6,),
}
Reply: TypeAlias = dict[str, Any]


class Client:
    """Owned by the main thread. Each public method is what the harness may ask to do."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._handles: list[tuple[Any, Any]] = []

    def fill(self, task: str, count: int, *, chunk: int = 1000, size: int = 0) -> Reply:
        """Send many in chunks, as the system does it best; return the seconds it took, and when."""
        began, cpu = time.monotonic_ns(), time.process_time()
        handles, calls = list[Any](), list[tuple[Any, ...]]()
        for first in range(0, count, chunk):
            calls = [ARGUMENTS[task](n, size) for n in range(first, min(first + chunk, count))]
            handles = self._calls.send_many(task, calls)
        self._keep(handles, calls[len(calls) - len(handles) :], task)
        return {
            "began": began,
            "seconds": (time.monotonic_ns() - began) / 1e9,
            "cpu": time.process_time() - cpu,
        }

    def enqueue(self, task: str, count: int) -> Reply:
        """Send one by one, as fast as it goes."""
        send = self._calls.sender(task)
        began, cpu = time.monotonic_ns(), time.process_time()
        for number in range(count):
            send(number)
        seconds = (time.monotonic_ns() - began) / 1e9
        return {"seconds": seconds, "cpu": time.process_time() - cpu}

    def calls(self, seconds: float, pause: float) -> Reply:
        """Send one by one with pauses; return how long each call took, in milliseconds."""
        send, took = self._calls.sender("noop"), list[float]()
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            send(len(took))
            took.append((time.monotonic() - began) * 1e3)
            time.sleep(random.uniform(0.5, 1.5) * pause)
        return {"milliseconds": took}

    def pace(self, rate: float, seconds: float) -> Reply:
        """Send ``stamp`` at a steady rate, whatever becomes of it; return the rate that we held."""
        send, count = self._calls.sender("stamp"), int(rate * seconds)
        began = time.monotonic()
        for number in range(count):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            send(time.monotonic_ns())
        return {"rate": count / (time.monotonic() - began), "count": count}

    def mixed(self, rate: float, seconds: float, hog_every: float, hog: float) -> Reply:
        """Send ``stamp`` at a steady rate, and every so often a task that takes long."""
        stamp, long = self._calls.sender("stamp"), self._calls.sender("hog")
        began, count = time.monotonic(), int(rate * seconds)
        next_hog = began
        for number in range(count):
            time.sleep(max(began + number / rate - time.monotonic(), 0.0))
            if time.monotonic() >= next_hog:
                long(hog)
                next_hog += hog_every
            stamp(time.monotonic_ns())
        return {"count": count}

    def ping(self, count: int, pause: float) -> Reply:
        """Send and wait for the result, one at a time; return each one's milliseconds."""
        send, took = self._calls.sender("stamp"), list[float]()
        for _ in range(count):
            time.sleep(random.uniform(0.5, 1.5) * pause)
            began = time.monotonic_ns()
            self._calls.wait(send(began), 30.0)
            took.append((time.monotonic_ns() - began) / 1e6)
        return {"milliseconds": took}

    def workflow(self, form: str, size: int, *, timeout: float = 0.0) -> Reply:
        """Send a workflow, and wait for its value if there is a timeout."""
        memory, began = _most_memory(), time.monotonic()
        handle, expected = cast("Any", self._calls).workflow(form, size)
        try:
            result = self._calls.wait(handle, timeout) if timeout else None
        except Exception as error:
            if "timeout" not in type(error).__name__.lower():
                raise
        else:
            assert result == (expected if timeout else None), result
        seconds = time.monotonic() - began
        return {"seconds": seconds, "memory": _most_memory() - memory}

    def verify(self, timeout: float) -> Reply:
        """Wait for the results of the last calls and compare them with what is right."""
        deadline = time.monotonic() + timeout
        for handle, expected in self._handles:
            result = self._calls.wait(handle, max(deadline - time.monotonic(), 0.1))
            if result != expected:
                raise AssertionError(f"expected {expected!r}, got {result!r}")
        return {"verified": len(self._handles)}

    def _keep(self, handles: list[Any], calls: Sequence[tuple[Any, ...]], task: str) -> None:
        right = [len(args[0]) if task == "take" else args[0] for args in calls]
        self._handles = list(zip(handles, right, strict=True))[-KEPT:]


def _most_memory() -> float:
    """Return the most memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Serve until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with replies
    client = Client(cast("Calls", importlib.import_module(sys.argv[1])))
    gc.freeze()
    replies.write("{}\n")
    replies.flush()
    for line in sys.stdin:
        replies.write(json.dumps(_answer(client, json.loads(line))) + "\n")
        replies.flush()


def _answer(client: Client, request: dict[str, Any]) -> Reply:
    method = getattr(client, request.pop("do"))
    try:
        return {"value": method(**request)}
    except Exception:  # noqa: BLE001 -- whatever a system raises is for the harness to report
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    main()
