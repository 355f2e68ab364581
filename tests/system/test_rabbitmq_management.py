"""What the management plugin's HTTP API tells, where its address is configured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers import Server as Node
from tests.servers import answers, management_port, rabbitmq_server
from tests.sharing import server_directory
from tests.system.projects import eventually
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ImproperlyConfigured, TransportError
from umbel.ids import new_id
from umbel.message import Message
from umbel.topology import Binding, Exchange, Queue, Topology

#: Seconds until what must happen fails the test; the plugin's figures are some seconds old.
PATIENCE = 60.0

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def node(run_directory: Path) -> Iterator[Node]:
    with rabbitmq_server(server_directory(run_directory), management=True) as node:
        eventually(lambda: answers(_port(node), b"GET / HTTP/1.0\r\n\r\n", b"HTTP"), bool)
        yield node


def _port(node: Node) -> int:
    return management_port(urlsplit(node.url).port or 0)


def test_it_lists_everything_and_counts_what_is_held(node: Node) -> None:
    # Given a queue that another program made, of which a consumer holds two messages
    maker = servers.open(node.url)
    queue = Queue("pictures", Exchange("files", "topic"), "image.#")
    maker.transport.declare(Topology(queues=(queue,)))
    messages = [Message(new_id(), b"", {}, "image.png", "files") for _ in range(3)]
    maker.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)
    consumer = maker.transport.consume(["pictures"], consumer_id=new_id(), lease=60.0)
    assert len(consumer.receive(2, timeout=PATIENCE)) == 2
    # When one asks who knows the plugin's address
    url = f"http://127.0.0.1:{_port(node)}/"
    server = servers.open(node.url, {"management_url": url})
    transport = server.transport
    # Then everything is known
    assert "pictures" in transport.queues()
    assert transport.bindings() == [Binding("files", "pictures", "image.#")]
    found = eventually(
        lambda: transport.depth(["pictures"])["pictures"], lambda depth: depth.held == 2
    )
    assert found.ready == 1
    consumer.close()
    for each in (maker, server):
        each.close()


def test_without_it_nothing_is_made_up(node: Node) -> None:
    server = servers.open(node.url)
    server.transport.declare(Topology(queues=(Queue("known"),)))
    assert not server.transport.depth(["known"])["known"].tells_held
    assert server.transport.bindings() is None
    server.close()


def test_what_is_wrong_is_said_without_the_password(node: Node) -> None:
    url = f"http://spy:secret@127.0.0.1:{_port(node)}"
    for address, why in ((url, "401"), ("http://spy:secret@127.0.0.1:1", "refused")):
        server = servers.open(node.url, {"management_url": address})
        with pytest.raises(TransportError, match=why) as error:
            server.transport.queues()
        assert "secret" not in str(error.value)
        server.close()
    with pytest.raises(ImproperlyConfigured, match="management_url") as refused:
        servers.open(node.url, {"management_url": "spy:secret@host"})
    assert "secret" not in str(refused.value)
