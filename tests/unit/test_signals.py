"""Signals: who is told what, and what it costs nobody."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from umbel import Umbel, signals, states
from umbel.bound import BoundTask, tell_revoked
from umbel.exceptions import TaskRevokedError
from umbel.message import Outcome
from umbel.signals import Signal
from umbel.wire.task import Request


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


class Ear:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def listen(self, sender: Any, **facts: Any) -> str:
        self.heard.append((sender, facts.get("x")))
        return "heard"


@pytest.fixture
def signal() -> Signal:
    return Signal("test", ("x",))


def test_receivers_are_told_in_their_order_and_answer(signal: Signal) -> None:
    first, second = Ear(), Ear()
    signal.connect(first.listen)
    signal.connect(second.listen)
    answers = signal.send("me", x=1)
    assert answers == [(first.listen, "heard"), (second.listen, "heard")]
    assert first.heard == second.heard == [("me", 1)]


def test_without_receivers_nothing_is_sent(signal: Signal) -> None:
    assert signal.receivers == ()
    assert signal.send("me", x=1) == []
    assert not signal.has_receivers("me")


def test_as_a_decorator(signal: Signal) -> None:
    heard: list[str] = []

    @signal.connect
    def plain(sender: Any, **_: Any) -> None:
        heard.append(f"plain {sender}")

    @signal.connect(sender="a")
    def only_a(sender: Any, **_: Any) -> None:
        heard.append(f"only {sender}")

    signal.send("a")
    signal.send("b")
    assert heard == ["plain a", "only a", "plain b"]
    assert callable(plain)
    assert callable(only_a)


def test_a_sender_may_be_named_by_its_name(signal: Signal) -> None:
    ear, task, namesake = Ear(), Named("add"), Named("add")
    signal.connect(ear.listen, sender="add")
    signal.send(task, x=1)
    signal.send(Named("other"), x=2)
    assert ear.heard == [(task, 1)]

    other = Ear()
    signal.connect(other.listen, sender=task)
    signal.send(namesake, x=3)
    assert other.heard == []  # another object of that name
    signal.send("add", x=4)
    assert other.heard == [("add", 4)]


def test_connecting_twice_is_connecting_once(signal: Signal) -> None:
    ear, other = Ear(), Ear()
    signal.connect(ear.listen)
    signal.connect(ear.listen)
    signal.connect(ear.listen, sender="a")  # another connection
    signal.connect(other.listen, dispatch_uid="x")
    signal.connect(ear.listen, dispatch_uid="x")  # the id is taken
    signal.send("a")
    assert len(ear.heard) == 2
    assert len(other.heard) == 1


def test_disconnecting(signal: Signal) -> None:
    ear = Ear()
    signal.connect(ear.listen)
    signal.connect(ear.listen, dispatch_uid="x", sender="a")
    assert signal.disconnect(ear.listen)
    assert not signal.disconnect(ear.listen)
    assert signal.disconnect(dispatch_uid="x", sender="a")
    assert signal.receivers == ()


def test_receivers_are_held_weakly_unless_told_otherwise(signal: Signal) -> None:
    heard: list[str] = []
    signal.connect(Ear().listen)
    signal.connect(lambda **_: heard.append("lost"))
    signal.connect(lambda **_: heard.append("kept"), weak=False)
    gc.collect()
    signal.send("me")
    assert heard == ["kept"]
    assert signal.has_receivers("me")


def test_one_that_raises_disturbs_nobody(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()

    def broken(**_: Any) -> None:
        raise ValueError("broken")

    signal.connect(broken)
    signal.connect(ear.listen)
    with caplog.at_level(logging.ERROR, "umbel.signals"):
        answers = signal.send("me", x=1)
    assert isinstance(answers[0][1], ValueError)
    assert ear.heard == [("me", 1)]
    assert "A receiver of test failed" in caplog.text


def test_the_generation_tells_of_changes(signal: Signal) -> None:
    ear = Ear()
    signal.connect(ear.listen)
    generation = signal.generation
    kept = signal.receivers_for("me")
    assert kept == (ear.listen,)
    assert signal.generation == generation
    signal.disconnect(ear.listen)
    assert signal.generation > generation


CELERYS_NAMES = (
    "before_task_publish after_task_publish task_received task_prerun task_postrun task_success "
    "task_retry task_failure task_internal_error task_revoked task_rejected task_unknown "
    "celeryd_init celeryd_after_setup import_modules worker_init worker_before_create_process "
    "worker_process_init worker_process_shutdown worker_ready worker_shutdown "
    "worker_shutting_down heartbeat_sent beat_init beat_embedded_init setup_logging "
    "after_setup_logger after_setup_task_logger user_preload_options eventlet_pool_started "
    "eventlet_pool_preshutdown eventlet_pool_postshutdown eventlet_pool_apply"
)


@pytest.mark.parametrize("name", CELERYS_NAMES.split())
def test_celerys_names(name: str) -> None:
    assert getattr(signals, name).name == name


def test_what_is_revoked_without_a_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals.task_revoked, "receivers", ())
    told: list[Any] = []

    @signals.task_revoked.connect
    def revoked(sender: Any, *, terminated: bool, expired: bool, **_: Any) -> None:
        told.append((sender, terminated, expired))

    task, request = Named("add"), Request(task="add", id="i")
    known, unknown = BoundTask("add", task, print), BoundTask("", None, print)
    for reason in ("revoked", "expired", "terminated"):
        tell_revoked(known, request, Outcome(states.REVOKED, error=TaskRevokedError(reason)))
    tell_revoked(unknown, request, Outcome(states.REVOKED, error=TaskRevokedError("revoked")))
    assert told == [
        (task, False, False),
        (task, False, True),
        (task, True, False),
        ("add", False, False),
    ]


def test_a_run_that_is_revoked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals.task_revoked, "receivers", ())
    told: list[Any] = []

    @signals.task_revoked.connect
    def revoked(sender: Any, *, request: Request, terminated: bool, **_: Any) -> None:
        told.append((sender.name, request.id, terminated))

    app = Umbel("signals", "memory://signals", set_as_current=False)

    @app.task(name="stopped")
    def stopped() -> None:
        raise TaskRevokedError("terminated")

    stopped.apply(task_id="i")
    assert told == [("stopped", "i", True)]
