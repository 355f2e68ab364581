"""What is known about tasks and queues, gathered from a server and changed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from umbel import Umbel
from umbel.clock import SYSTEM_CLOCK
from umbel.control.facts import gather
from umbel.control.letters import Wanted, drop, find_letters, requeue, task_of
from umbel.control.nodes import living_nodes
from umbel.control.queues import look_at_queues
from umbel.control.why import answer
from umbel.ids import new_id
from umbel.message import Effects, Ending, ResultRecord
from umbel.servers.seams import Ledger
from umbel.wire.result import encode_meta

Send = Callable[[], str]


@pytest.fixture
def app() -> Iterator[Umbel]:
    with Umbel("tasks", broker=f"memory://{new_id()}", set_as_current=False) as app:
        yield app


@pytest.fixture
def ledger(app: Umbel) -> Ledger:
    found = app.servers().ledger
    assert found is not None
    return found


@pytest.fixture
def send(app: Umbel) -> Send:
    return lambda: app.send_task("tasks.add", (1, 2)).id


def why(app: Umbel, task_id: str) -> str:
    return answer(gather(app, task_id)).kind


def stored(task_id: str, state: str) -> ResultRecord:
    return ResultRecord(task_id, encode_meta(task_id, state), state)


def bury(app: Umbel, count: int) -> None:
    servers = app.servers()
    consumer = servers.broker.transport.consume(["celery"], consumer_id=new_id(), lease=60)
    for number, each in enumerate(consumer.receive(count, 1.0)):
        record = stored(each.message.id, "FAILURE")
        dead = Effects(each, Ending.DEAD, f"reason {number}", results=(record,))
        servers.committer.commit([dead])
    consumer.close()


def announce(ledger: Ledger, *running: str) -> None:
    now = SYSTEM_CLOCK.now()
    tasks = [{"id": each, "name": "tasks.add", "since": now} for each in running]
    process = {"pid": 7, "consumer": "c", "processed": 3, "running": tasks, "count": len(tasks)}
    record = {"queues": ["celery"], "tasks": ["tasks.add"], "processes": [process]}
    ledger.announce("w1@host", record, expires_in=60)


def test_the_life_of_a_task_told(app: Umbel, ledger: Ledger, send: Send) -> None:
    assert why(app, "nobody's") == "unknown"
    first, second = send(), send()
    assert why(app, second) == "no-consumer"
    announce(ledger)
    assert why(app, second) == "ready"
    assert answer(gather(app, second)).details["ahead"] == 1
    transport = app.servers().broker.transport
    consumer = transport.consume(["celery"], consumer_id="c", lease=60)
    (held,) = consumer.receive(1, 1.0)
    assert why(app, first) == "held"
    announce(ledger, first)
    assert why(app, first) == "running"
    announce(ledger)
    app.servers().committer.commit([Effects(held, results=(stored(first, "SUCCESS"),))])
    assert why(app, first) == "done"
    app.control.revoke(second)
    assert why(app, second) == "revoked"
    late = app.send_task("tasks.add", countdown=60).id
    assert why(app, late) == "delayed"
    assert why(app, app.send_task("tasks.sub").id) == "unknown-task"
    assert why(app, app.send_task("tasks.add", expires=-1).id) == "expired"


def test_letters_are_found_in_many_pages(app: Umbel, send: Send) -> None:
    sent = [send() for _ in range(450)]
    bury(app, 450)
    servers = app.servers()
    found = list(find_letters(servers, Wanted()))
    assert [each.message.id for each in found] == sent
    assert {task_of(each) for each in found} == {"tasks.add"}
    (one,) = find_letters(servers, Wanted(reason="REASON 449"))
    assert one.message.id == sent[-1]
    assert why(app, one.message.id) == "dead"
    assert list(find_letters(servers, Wanted(tasks=("tasks.s*",)))) == []
    assert list(drop(servers, found[:250])) == [(200, 200), (50, 50)]
    assert len(list(find_letters(servers, Wanted()))) == 200


def test_who_asks_for_what_was_requeued_waits_anew(app: Umbel, send: Send) -> None:
    task_id = send()
    bury(app, 1)
    assert app.AsyncResult(task_id).state == "FAILURE"
    servers = app.servers()
    letters = list(find_letters(servers, Wanted(frozenset({task_id}))))
    assert list(requeue(servers, letters)) == [(1, 1)]
    assert app.AsyncResult(task_id).state == "PENDING"
    assert why(app, task_id) == "no-consumer"


def test_queues_tell_who_consumes_them(app: Umbel, ledger: Ledger, send: Send) -> None:
    send()
    announce(ledger)
    transport = app.servers().broker.transport
    consumer = transport.consume(["celery"], consumer_id="c", lease=60)
    (sight,) = look_at_queues(transport, ["celery", "nowhere"], living_nodes(ledger))
    assert (sight.name, sight.depth.ready, sight.consumers) == ("celery", 1, 1)
    assert sight.nodes == ("w1@host",)
    consumer.close()


def test_records_of_other_versions_may_say_less(ledger: Ledger) -> None:
    ledger.announce("old@host", {"pid": 5}, expires_in=60)
    (node,) = living_nodes(ledger)
    assert (node.name, node.pid, node.queues, node.processes) == ("old@host", 5, (), ())
    assert living_nodes(None) == []
