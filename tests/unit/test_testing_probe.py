from __future__ import annotations

import threading

import pytest

from umbel.telemetry import emit
from umbel.testing.probe import Probe


def test_it_collects_events_while_its_block_runs() -> None:
    emit("thing.done", count=1)
    with Probe() as probe:
        emit("thing.done", count=2)
    emit("thing.done", count=3)
    assert probe.seen("thing.done") == [{"count": 2}]


def test_wait_for_returns_at_once_what_has_happened() -> None:
    with Probe() as probe:
        emit("thing.done", name="a")
        emit("thing.done", name="b")
        assert probe.wait_for("thing.done", 2) == [{"name": "a"}, {"name": "b"}]


def test_wait_for_waits_for_what_other_threads_emit() -> None:
    with Probe() as probe:
        timer = threading.Timer(0.05, emit, ["thing.done"])
        timer.start()
        probe.wait_for("thing.done")
        timer.join()


def test_wait_for_tells_facts_apart() -> None:
    with Probe() as probe:
        emit("thing.done", name="a", size=1)
        emit("thing.done", name="b", size=1)
        assert probe.wait_for("thing.done", name="b") == [{"name": "b", "size": 1}]


def test_wait_for_fails_at_its_timeout_and_tells_what_was_seen_instead() -> None:
    with Probe() as probe:
        emit("thing.began", name="a")
        with pytest.raises(AssertionError, match=r"1 of thing\.done.*thing\.began"):
            probe.wait_for("thing.done", timeout=0.01)


def test_wait_until_asks_again_after_each_event() -> None:
    with Probe() as probe:
        for count in (2, 3):
            threading.Timer(0.02 * count, emit, ["thing.done"], {"count": count}).start()
        probe.wait_until(lambda: probe.total("thing.done") == 5, "5 things")
