"""A RabbitMQ that stops, dies, freezes, throws everybody out or takes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers import Server as Node
from tests.servers import rabbitmq_server, rabbitmqctl
from tests.sharing import server_directory
from tests.system.chaos.proxy import Proxy
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost, TimeoutError, TransportError
from umbel.ids import new_id
from umbel.message import Delivery, Effects, Ending, Message, ResultRecord
from umbel.servers.seams import Consumer, Server
from umbel.states import SUCCESS
from umbel.topology import Queue, Topology

#: Seconds until what must happen fails the test.
PATIENCE = 60.0

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def node(run_directory: Path) -> Iterator[Node]:
    """A node that tests may stop, kill and freeze; they leave it running."""
    with rabbitmq_server(server_directory(run_directory)) as node:
        yield node


@pytest.fixture
def server(node: Node) -> Iterator[Server]:
    server = servers.open(node.url)
    yield server
    server.close()


@pytest.fixture
def queue(server: Server) -> str:
    name = new_id()
    server.transport.declare(Topology(queues=(Queue(name),)))
    return name


def publish(server: Server, queue: str, count: int = 1, *, within: float = PATIENCE) -> list[str]:
    messages = [Message(new_id(), b"body", {}, queue) for _ in range(count)]
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + within)
    return [each.id for each in messages]


def insist(server: Server, queue: str) -> str:
    """Publish one message, as the publisher does it: again and again until it is confirmed."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while True:
        try:
            return publish(server, queue)[0]
        except ConnectionLost:
            assert SYSTEM_CLOCK.monotonic() < deadline
            SYSTEM_CLOCK.sleep(0.02)


def drain(consumer: Consumer, server: Server, wanted: set[str]) -> list[Delivery]:
    """Receive and commit until all that is wanted was committed, whatever breaks."""
    done: list[Delivery] = []
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while not wanted <= {each.message.id for each in done}:
        assert SYSTEM_CLOCK.monotonic() < deadline
        with suppress(ConnectionLost):
            batch = consumer.receive(50, timeout=0.5)
            stale = server.committer.commit([Effects(each) for each in batch]).stale
            done += [each for each in batch if each not in stale]
    return done


def consume(server: Server, queue: str) -> Consumer:
    return server.transport.consume([queue], consumer_id=new_id(), lease=60.0)


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    proxy = Proxy(node.url)
    yield proxy
    proxy.close()


def test_a_network_that_is_cut_and_swallows_confirms_loses_nothing(
    proxy: Proxy, server: Server, queue: str
) -> None:
    # Given a publisher and a consumer behind a network that fails
    far = servers.open(proxy.url)
    consumer = consume(far, queue)
    sent: set[str] = set()
    for _ in range(10):
        # When it is cut, also after the server took a message and before it said so
        sent |= {insist(far, queue) for _ in range(5)}
        drain(consumer, far, {insist(far, queue)})
        proxy.swallow(1)
        sent.add(insist(far, queue))
        proxy.cut()
    # Then all that was confirmed comes; what was swallowed may come as well
    last = insist(far, queue)
    drain(consumer, far, {last})
    consumer.close()
    far.close()
    assert proxy.swallowed == 10
    assert server.transport.depth([queue])[queue].ready == 0


def test_a_half_open_connection_costs_the_deadline_and_its_messages_go_to_others(
    proxy: Proxy, server: Server, queue: str
) -> None:
    # Given a consumer that holds a message, and a publisher, on connections that stall
    far = servers.open(proxy.url, {"heartbeat": 2})
    consumer = consume(far, queue)
    sent = insist(far, queue)
    (held,) = consumer.receive(1, timeout=PATIENCE)
    with proxy.stalling():
        begun = SYSTEM_CLOCK.monotonic()
        with pytest.raises(TimeoutError):
            publish(far, queue, within=0.5)
        assert SYSTEM_CLOCK.monotonic() - begun < PATIENCE / 2
        with pytest.raises(ConnectionLost):  # it asks to be pushed more
            consumer.receive(10, timeout=1.0)
        # When heartbeats have been missing for long enough
        deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
        while not far.committer.commit([Effects(held, Ending.KEEP)]).stale:
            assert SYSTEM_CLOCK.monotonic() < deadline
            with suppress(ConnectionLost):
                consumer.receive(0, timeout=1.0)
        # Then another has the message
        other = consume(server, queue)
        drain(other, server, {sent})
    other.close()
    # And all goes on when the network does
    drain(consumer, far, {insist(far, queue)})
    consumer.close()
    far.close()


def test_what_was_confirmed_survives_the_servers_death(
    node: Node, server: Server, queue: str
) -> None:
    # Given confirmed messages, of which a consumer holds some
    sent = set(publish(server, queue, 200))
    consumer = consume(server, queue)
    held = consumer.receive(10, timeout=PATIENCE)
    # When the server is killed and started again
    node.kill()
    with pytest.raises(ConnectionLost):
        publish(server, queue)
    node.start()
    # Then what was held is no longer ours, and all is received again, by the same consumer
    assert list(server.committer.commit([Effects(each) for each in held]).stale) == held
    drain(consumer, server, sent)
    consumer.close()


def test_everybody_is_thrown_out_while_threads_publish_and_consume(
    node: Node, server: Server, queue: str
) -> None:
    # Given four threads that publish, and a consumer
    ended = threading.Event()
    confirmed: list[str] = []

    def work() -> None:
        while not ended.is_set():
            confirmed.append(insist(server, queue))

    threads = [threading.Thread(target=work) for _ in range(4)]
    consumer = consume(server, queue)
    for thread in threads:
        thread.start()
    # When all connections are closed by the server, several times
    for _ in range(3):
        drain(consumer, server, {insist(server, queue)})
        rabbitmqctl(node.environment, "close_all_connections", "test")
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
    # Then all that was confirmed is there
    assert confirmed
    other = consume(server, queue)
    consumer.close()
    assert server.transport.depth([queue])[queue].ready <= len(confirmed)
    drain(other, server, {insist(server, queue)})
    other.close()


def test_a_server_that_is_short_of_memory_says_so_and_can_be_drained(
    node: Node, server: Server, queue: str
) -> None:
    # Given messages that are held
    publish(server, queue, 3)
    consumer = consume(server, queue)
    (held,) = consumer.receive(1, timeout=PATIENCE)
    # When the server raises its memory alarm
    rabbitmqctl(node.environment, "set_vm_memory_high_watermark", "0.0000001")
    try:
        # Then publishing ends at its deadline and says why
        with pytest.raises(TimeoutError, match="low on memory"):
            publish(server, queue, within=1.0)
        # And consumers go on, because they do not publish on their connection
        assert server.committer.commit([Effects(held)]).stale == ()
        assert len(consumer.receive(1, timeout=PATIENCE)) == 1
    finally:
        rabbitmqctl(node.environment, "set_vm_memory_high_watermark", "0.4")
    publish(server, queue)
    consumer.close()


def test_a_frozen_server_costs_the_deadline_and_no_more(
    node: Node, server: Server, queue: str
) -> None:
    publish(server, queue)
    node.freeze()
    try:
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(TimeoutError, match="confirmed 0 of 1"):
            publish(server, queue, within=0.5)
        assert SYSTEM_CLOCK.monotonic() - began < PATIENCE / 2
    finally:
        node.thaw()
    publish(server, queue)


def test_a_queue_that_is_deleted_under_its_consumer_is_an_error_that_names_it(
    node: Node, server: Server, queue: str
) -> None:
    consumer = consume(server, queue)
    consumer.receive(1, timeout=0.1)
    rabbitmqctl(node.environment, "delete_queue", queue)
    with pytest.raises(TransportError, match=queue):
        consumer.receive(1, timeout=PATIENCE)
    with pytest.raises(TransportError, match=f"no queue '{queue}'"):
        consumer.receive(1, timeout=PATIENCE)
    server.transport.declare(Topology(queues=(Queue(queue),)))
    sent = publish(server, queue)
    assert [each.message.id for each in consumer.receive(1, timeout=PATIENCE)] == sent
    consumer.close()


def test_results_that_come_while_the_caller_is_disconnected_are_not_lost(
    node: Node, server: Server
) -> None:
    # Given a caller that knows its address, and is thrown out
    address = server.results.reply_to
    rabbitmqctl(node.environment, "close_all_connections", "test")
    # When a worker sends its result before the caller is back
    worker = servers.open(node.url)
    worker.results.put([ResultRecord("task", b"meta", SUCCESS, reply_to=address)])
    worker.close()
    # Then it is there
    with suppress(ConnectionLost):
        server.results.get(["task"])
    assert server.results.get(["task"]) == {"task": b"meta"}


def test_missing_permissions_are_explained(node: Node, queue: str) -> None:
    rabbitmqctl(node.environment, "add_user", "poor", "poor")
    rabbitmqctl(node.environment, "set_permissions", "poor", "none", "none", "none")
    poor = servers.open(node.url.replace("guest:guest", "poor:poor"))
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    for use in (
        lambda: poor.transport.publish([Message(new_id(), b"", {}, queue)], deadline=deadline),
        lambda: poor.transport.declare(Topology(queues=(Queue(new_id()),))),
        lambda: consume(poor, queue).receive(1, timeout=PATIENCE),
        lambda: poor.results.put([ResultRecord("t", b"", SUCCESS, reply_to=queue)]),
    ):
        with pytest.raises(TransportError, match=r"refused for user 'poor'; .*set_permissions"):
            use()
    poor.close()


STRUCK = """
import random, signal, sys, time
from umbel import servers
from umbel.exceptions import TransportError
from umbel.ids import new_id
from umbel.message import Message

class Struck(Exception): pass

def strike(*_): raise Struck

server = servers.open(sys.argv[1])
signal.signal(signal.SIGALRM, strike)
struck = 0
for _ in range(60):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.03, 0.06))
    try:
        while True:
            message = Message(new_id(), b"body", {}, sys.argv[2])
            try:
                server.transport.publish([message], deadline=time.monotonic() + 10)
            except TransportError:
                continue
            sys.stdout.write(message.id + "\\n")
    except Struck:
        struck += 1
server.transport.publish([Message("last", b"", {}, sys.argv[2])], deadline=time.monotonic() + 10)
sys.stdout.write(f"last\\n{struck}\\n")
sys.stdout.flush()
server.close()
"""


STRUCK_AT_FIRST = """
import random, signal, sys, time
from umbel import servers
from umbel.ids import new_id
from umbel.message import Message

class Struck(Exception): pass

def strike(*_):
    strikes.append(1)
    raise Struck

signal.signal(signal.SIGALRM, strike)
strikes, through, connections = [], 0, 0
while through < 30 and connections < 600:
    connections += 1
    server = servers.open(sys.argv[1])
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.01))
        message = Message(new_id(), b"body", {}, sys.argv[2])
        server.transport.publish([message], deadline=time.monotonic() + 10)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Struck:
        through += 1
    server.close()
print(len(strikes), through)
"""


def test_an_exception_that_strikes_while_it_connects_gets_through(node: Node, queue: str) -> None:
    words = [sys.executable, "-c", STRUCK_AT_FIRST, node.url, queue]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    strikes, through = map(int, done.stdout.split())
    assert strikes == through >= 10


def test_an_exception_that_strikes_a_publisher_anywhere_gets_through_and_breaks_nothing(
    node: Node, server: Server, queue: str
) -> None:
    # Given a program in whose publishing thread a signal raises, as a soft time limit does
    words = [sys.executable, "-c", STRUCK, node.url, queue]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    *confirmed, struck = done.stdout.split()
    # Then each strike got through, it went on publishing, and all that was confirmed is there
    print(f"{struck} strikes got through, {len(confirmed)} confirmed")
    assert struck == "60"
    consumer = consume(server, queue)
    drain(consumer, server, set(confirmed))
    consumer.close()


def test_a_forked_child_has_connections_of_its_own(server: Server, queue: str) -> None:
    # Given a process with a connection and a consumer that holds a message
    sent = publish(server, queue)
    consumer = consume(server, queue)
    (held,) = consumer.receive(1, timeout=PATIENCE)
    # When it forks, and the child publishes and ends
    pid = os.fork()
    if pid == 0:
        try:
            assert publish(server, queue)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    # Then the parent goes on with its own
    assert [held.message.id] == sent
    assert server.committer.commit([Effects(held)]).stale == ()
    assert len(consumer.receive(1, timeout=PATIENCE)) == 1
    consumer.close()


CHILD_OUTLIVES = """
import os, sys, time
from umbel import servers
server = servers.open(sys.argv[1])
consumer = server.transport.consume([sys.argv[2]], consumer_id="parent", lease=60.0)
assert len(consumer.receive(1, timeout=30)) == 1
if os.fork() == 0:
    os.close(1)
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_forked_child_keeps_nothing_of_its_dead_parent(
    node: Node, server: Server, queue: str
) -> None:
    # Given a process that holds a message and has forked a child
    sent = publish(server, queue)
    words = [sys.executable, "-c", CHILD_OUTLIVES, node.url, queue]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline()
        # When it is killed, and the child lives on
        parent.kill()
        # Then the message is back at once
        consumer = consume(server, queue)
        assert [each.message.id for each in consumer.receive(1, timeout=PATIENCE)] == sent
        consumer.close()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
