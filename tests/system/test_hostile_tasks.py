"""Tasks that do what no task should: the worker goes on, and their callers are told."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.system.chaos.harness import wait_until
from tests.system.pools import Running, Start, started
from umbel.exceptions import EncodeError, TaskError, WorkerLostError

TASKS = """
import asyncio, ctypes, hashlib, multiprocessing, os, signal, sys, time
from umbel import Umbel

app = Umbel("tasks", broker=os.environ["BROKER"], worker_lease=3.0,
            worker_soft_shutdown_timeout=float(os.environ["PATIENCE"]),
            accept_content=["json", "pickle"])

class Says:
    def __init__(self, error):
        self.error = error
    def __json__(self):
        raise self.error

class Shy(Exception):
    @property
    def args(self):
        raise RuntimeError("none of your business")

class Mute(Exception):
    def __str__(self):
        raise SystemExit(4)
    __repr__ = __str__

class Bomb:
    def __reduce__(self):
        return os._exit, (9,)

def own_cause():
    error = ValueError("mine")
    error.__cause__ = error
    return error

RAISED = {
    "interrupt": KeyboardInterrupt, "exit": SystemExit, "generator": GeneratorExit,
    "base": BaseException, "memory": MemoryError, "cancelled": asyncio.CancelledError,
    "shy": Shy, "mute": Mute, "cause": own_cause,
}
RETURNED = {
    "object": object, "exits": lambda: Says(SystemExit(1)),
    "interrupts": lambda: Says(KeyboardInterrupt()), "refuses": lambda: Says(ValueError("no")),
    "large": lambda: "x" * (129 << 20),
}

@app.task
def add(x, y):
    return x + y

@app.task
def raises(kind):
    raise RAISED[kind]()

@app.task
async def raises_async(kind):
    raise RAISED[kind]()

@app.task
def returns(kind):
    return RETURNED[kind]()

@app.task
async def returns_async(kind):
    return RETURNED[kind]()

@app.task
def ends(kind):
    if kind == "exit":
        os._exit(0)
    ctypes.string_at(0)

@app.task
def forks():
    return "copy" if os.fork() == 0 else "task"

@app.task
async def forks_async():
    return "copy" if os.fork() == 0 else "task"

@app.task
def terminates():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode

@app.task
def computes(path):
    open(path, "w").close()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return partial(started, tmp_path, TASKS)


def send(worker: Running, name: str, *args: Any, **options: Any) -> Any:
    return worker.app.send_task(f"tasks.{name}", args, **options)


def test_whatever_a_task_raises_or_returns_is_its_own_failure(start: Start) -> None:
    with start("-c", "1") as worker:
        child = worker.children()
        for way in ("", "_async"):
            for kind in ("interrupt", "exit", "generator", "base", "cancelled"):
                with pytest.raises(TaskError, match="the task raised"):
                    send(worker, f"raises{way}", kind).get(timeout=60)
            for kind in ("object", "exits", "interrupts", "refuses", "large"):
                with pytest.raises(EncodeError, match="cannot be stored"):
                    send(worker, f"returns{way}", kind).get(timeout=60)
            with pytest.raises(EncodeError, match="RuntimeError"):
                send(worker, f"raises{way}", "shy").get(timeout=60)
            for kind in ("memory", "mute", "cause"):
                assert send(worker, f"raises{way}", kind).get(timeout=60, propagate=False)
        assert send(worker, "add", 1, 1).get(timeout=60) == 2
        assert worker.children() == child


@pytest.mark.parametrize("kind", ["exit", "fault"])
def test_a_task_that_ends_its_process_is_charged(start: Start, kind: str) -> None:
    with start("-c", "1") as worker:
        ending = send(worker, "ends", kind)
        beside = send(worker, "add", 1, 1)
        with pytest.raises(WorkerLostError, match="died 3 times"):
            ending.get(timeout=60)
        assert beside.get(timeout=60) == 2


@pytest.mark.parametrize("name", ["add", "raises_async"])
def test_arguments_that_end_the_process_that_reads_them_are_charged(
    start: Start, name: str
) -> None:
    with start("-c", "1") as worker:
        bomb = send(worker, name, _Bomb(), 1, serializer="pickle")
        with pytest.raises(WorkerLostError, match="died 3 times"):
            bomb.get(timeout=60)
        assert send(worker, "add", 1, 1).get(timeout=60) == 2


class _Bomb:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os  # noqa: PLC0415 -- its name is what is pickled

        return os._exit, (9,)


def test_a_task_that_forks_ends_once(start: Start) -> None:
    with start("-c", "1") as worker:
        for name in ("forks", "forks_async"):
            assert send(worker, name).get(timeout=60) == "task"
        assert send(worker, "add", 1, 1).get(timeout=60) == 2
        (node, child) = sorted(worker.children())
        wait_until(
            lambda: not [each for pid in (node, child) for each in _alive(pid)],
            timeout=5,
            why=lambda: f"copies of {(node, child)} live on",
        )


def test_what_a_task_forks_may_be_terminated(start: Start) -> None:
    with start("-c", "1") as worker:
        assert send(worker, "terminates").get(timeout=60) == -15
        assert send(worker, "add", 1, 1).get(timeout=60) == 2


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_task_inside_of_c_code_does_not_hold_up_the_end(
    start: Start, tmp_path: Path, pool: str
) -> None:
    path = tmp_path / "began"
    with start("-c", "1", "-P", pool, patience=0.2) as worker:
        send(worker, "computes", str(path))
        wait_until(path.exists, timeout=60, why=worker.log.read_text)
        worker.stop()
        depth = worker.app.servers().broker.transport.depth(["celery"])["celery"]
        assert (depth.ready, depth.held) == (1, 0)


def _alive(pid: int) -> list[int]:
    """Return the children of a process that are no zombies."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stats = {int(each): Path(f"/proc/{each}/stat") for each in listed}
    return [
        each
        for each, stat in stats.items()
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    ]
