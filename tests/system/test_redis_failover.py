"""Redis with a replica: who is the master is found out, by a list of addresses or by sentinels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import Server as Process
from tests.servers import redis_sentinel, redis_server
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ConnectionLost
from umbel.ids import new_id
from umbel.message import Message
from umbel.servers.seams import Server
from umbel.topology import Queue, Topology

PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A master and its replica, which has all that the master has."""

    master: Process
    replica: Process
    stack: ExitStack

    def promote(self) -> None:
        with redis.Redis.from_url(self.replica.url) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def wait_for_copy(self) -> None:
        with redis.Redis.from_url(self.master.url) as client:
            assert client.wait(1, int(PATIENCE * 1000)) == 1


@pytest.fixture
def pair(server_directory: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        master = stack.enter_context(
            redis_server(server_directory / "a", "--repl-diskless-sync", "no")
        )
        port = master.url.removesuffix("/0").rpartition(":")[2]
        options = ("--replicaof", f"127.0.0.1 {port}")
        replica = stack.enter_context(redis_server(server_directory / "b", *options))
        with redis.Redis.from_url(replica.url) as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up")
        yield Pair(master, replica, stack)


def eventually(what: Callable[[], Any]) -> Any:
    """Try until it works: a failover is told to nobody."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while True:
        try:
            if found := what():
                return found
        except ConnectionLost:
            pass
        assert SYSTEM_CLOCK.monotonic() < deadline
        SYSTEM_CLOCK.sleep(0.02)


def send(server: Server) -> bool:
    message = Message(new_id(), b"[]", {}, "work")
    server.transport.publish([message], deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)
    return True


def opened(url: str, **options: Any) -> Server:
    server = servers.open(url, options)
    server.transport.declare(Topology(queues=(Queue("work"),)))
    return server


def test_of_several_addresses_the_master_is_taken(pair: Pair) -> None:
    for urls in ((pair.replica.url, pair.master.url), (pair.master.url, pair.replica.url)):
        server = opened(";".join(urls))
        assert send(server)
        server.close()


def test_a_replica_alone_takes_no_messages(pair: Pair) -> None:
    server = servers.open(pair.replica.url)
    with pytest.raises(ConnectionLost, match="is a replica"):
        server.transport.queues()
    server.close()


@pytest.mark.parametrize("dies", [True, False])
def test_after_a_failover_both_sides_go_on(pair: Pair, dies: bool) -> None:  # noqa: FBT001 -- a parameter
    # Given messages, one of them held, and a consumer that waits
    server = opened(f"{pair.master.url};{pair.replica.url}")
    send(server)
    consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=600.0)
    assert len(consumer.receive(1, timeout=PATIENCE)) == 1
    pair.wait_for_copy()
    # When the master dies, or becomes a replica of the other
    pair.promote()
    if dies:
        pair.master.kill()
    else:
        port = pair.replica.url.removesuffix("/0").rpartition(":")[2]
        with redis.Redis.from_url(pair.master.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", port)
    # Then publisher and consumer find the other, where the hold is known too
    assert eventually(lambda: send(server))
    (delivery,) = eventually(lambda: consumer.receive(5, timeout=1.0))
    assert delivery.queue == "work"
    assert server.transport.depth(["work"])["work"].held == 2
    consumer.close()
    server.close()


def test_sentinels_say_where_the_master_is(pair: Pair, server_directory: Path) -> None:
    sentinel = pair.stack.enter_context(
        redis_sentinel(server_directory / "s", pair.master, name="umbels")
    )
    nobody = "sentinel://127.0.0.1:1"
    server = opened(f"{nobody};{sentinel.url}", master_name="umbels")
    send(server)
    pair.wait_for_copy()
    with redis.Redis.from_url(sentinel.url.replace("sentinel:", "redis:")) as client:
        eventually(lambda: client.execute_command("SENTINEL", "REPLICAS", "umbels"))
    pair.master.kill()
    assert eventually(lambda: send(server))
    assert server.transport.depth(["work"])["work"].ready == 2
    server.close()


def test_a_master_that_no_sentinel_knows_is_a_lost_connection(
    pair: Pair, server_directory: Path
) -> None:
    sentinel = pair.stack.enter_context(
        redis_sentinel(server_directory / "s", pair.master, name="umbels")
    )
    with pytest.raises(ConnectionLost, match="No master found for 'others'"):
        opened(sentinel.url, master_name="others")
