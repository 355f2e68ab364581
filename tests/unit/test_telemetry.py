from __future__ import annotations

import threading
from typing import Any

import pytest

from umbel.telemetry import emit, listen, listening


class Heard(list[tuple[str, dict[str, Any]]]):
    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        self.append((event, facts))


def test_a_listener_hears_events_with_their_facts() -> None:
    heard = Heard()
    with listening(heard):
        emit("delivery.committed", count=3)
    assert heard == [("delivery.committed", {"count": 3})]


def test_emitting_without_listeners_is_allowed() -> None:
    emit("nobody.listens", count=3)


def test_every_listener_hears_in_the_order_of_listening() -> None:
    order: list[str] = []
    with listening(lambda *_: order.append("first")), listening(lambda *_: order.append("second")):
        emit("something")
    assert order == ["first", "second"]


def test_a_removed_listener_hears_no_more() -> None:
    heard = Heard()
    remove = listen(heard)
    remove()
    remove()
    emit("something")
    assert heard == []


def test_a_block_that_fails_ends_the_listening() -> None:
    heard = Heard()
    with pytest.raises(ZeroDivisionError), listening(heard):
        raise ZeroDivisionError
    emit("something")
    assert heard == []


def test_removing_one_of_two_equal_listeners_keeps_the_other() -> None:
    first, second = Heard(), Heard()
    assert first == second
    with listening(second):
        listen(first)()
        emit("something")
    assert second == [("something", {})]


def test_a_listener_may_stop_listening_while_it_hears() -> None:
    heard: list[str] = []
    removes: list[Any] = []

    def once(event: str, _: dict[str, Any]) -> None:
        heard.append(event)
        removes[0]()

    removes.append(listen(once))
    emit("first")
    emit("second")
    assert heard == ["first"]


def test_threads_may_begin_and_end_listening_at_once() -> None:
    kept = Heard()

    def come_and_go() -> None:
        for _ in range(200):
            listen(Heard())()

    with listening(kept):
        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        emit("after")
    assert kept == [("after", {})]
