"""A server in a process: its fork, its signals, its threads.

A server belongs to the program, is shared by its threads and reopens itself after a fork.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import pytest

from umbel.clock import SYSTEM_CLOCK
from umbel.message import Effects
from umbel.testing.contract.stage import PATIENCE, Stage, Suite, ids, in_thread, message

#: Seconds between two signals of a hail of them.
PAUSE = 0.001


class ProcessContract(Suite):
    # --- fork

    def test_a_server_reopens_itself_in_a_forked_child(self, stage: Stage, queue: str) -> None:
        if not stage.backend.across_processes:
            return
        (first,) = stage.send(queue)
        other = stage.queue()
        answer = message(other)

        def child() -> None:
            consumer = stage.consumer(queue)
            held = stage.one(consumer)
            assert held.message.id == first
            record = stage.record(first, b"from the child")
            report = stage.commit(Effects(held, results=(record,), publish=(answer,)))
            assert report.stale == ()
            consumer.close()

        in_child(child)
        assert ids(stage.drain(other)) == [answer.id]
        stage.send(queue)
        assert len(stage.drain(queue)) == 1

    def test_a_child_that_ends_leaves_the_parents_session_alone(
        self, stage: Stage, queue: str
    ) -> None:
        if not stage.backend.across_processes:
            return
        sent = stage.send(queue, 2)
        consumer = stage.consumer(queue)
        held = stage.one(consumer)
        in_child(lambda: None)
        assert ids([held, *stage.take(consumer)]) == sent
        assert stage.acknowledge(held).stale == ()

    def test_reply_to_is_another_one_in_a_forked_child(self, stage: Stage) -> None:
        ours = stage.server.results.reply_to

        def child() -> None:
            theirs = stage.server.results.reply_to
            assert (theirs == ours) == (ours == "")

        in_child(child)
        assert stage.server.results.reply_to == ours

    # --- signals

    def test_wake_in_a_signal_handler_makes_a_receive_that_waits_return(
        self, stage: Stage, queue: str
    ) -> None:
        consumer = stage.consumer(queue)
        began = SYSTEM_CLOCK.monotonic()
        with hail(consumer.wake, count=1, after=0.1):
            assert consumer.receive(10, timeout=2 * PATIENCE) == []
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE

    def test_wake_is_safe_in_a_signal_handler_at_any_moment(self, stage: Stage, queue: str) -> None:
        consumer = stage.consumer(queue)
        sent: list[str] = []
        got: list[str] = []
        with hail(consumer.wake, count=200):
            for _ in range(40):
                sent += stage.send(queue)
                batch = consumer.receive(5, timeout=0.01)
                stage.acknowledge(*batch)
                got += ids(batch)
        got += ids(stage.take(consumer, len(sent) - len(got)))
        assert got == sent

    # --- threads

    def test_many_threads_share_one_server(self, stage: Stage) -> None:
        def work() -> int:
            queue = stage.queue()
            consumer = stage.consumer(queue)
            for _ in range(5):
                (task_id,) = stage.send(queue)
                held = stage.one(consumer)
                stage.commit(Effects(held, results=(stage.record(task_id, b"done"),)))
                assert stage.results(task_id) == {task_id: b"done"}
            return stage.transport.depth([queue])[queue].ready

        assert [join() for join in [in_thread(work) for _ in range(6)]] == [0] * 6


def in_child(work: Callable[[], None]) -> None:
    """Run this in a forked child; fail with what it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(work, writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        problem = pipe.read()
    os.waitpid(pid, 0)
    assert problem == "done", problem or "the child died"


def _be_child(work: Callable[[], None], writer: int) -> None:
    # The parent waits on the pipe; its own timeout ends us if we hang. Nothing of it may run here.
    signal.alarm(int(2 * PATIENCE))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        work()
        problem = "done"
    except BaseException:  # noqa: BLE001 -- told to the parent, which fails with it
        problem = traceback.format_exc()
    os.write(writer, problem.encode())
    sys.stdout.flush()
    os._exit(0)


class hail:  # noqa: N801 -- used as a block
    """Call a function in signal handlers of the main thread, again and again, for a block."""

    def __init__(self, call: Callable[[], None], *, count: int, after: float = 0.0) -> None:
        self._call = call
        self._count = count
        self._after = after
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            pytest.skip("signal handlers run in the main thread, and this test does not")
        self._former = signal.signal(signal.SIGUSR1, lambda *_: self._call())
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._former)

    def _send(self) -> None:
        self._over.wait(self._after)
        for _ in range(self._count):
            if self._over.wait(PAUSE):
                return
            os.kill(os.getpid(), signal.SIGUSR1)
