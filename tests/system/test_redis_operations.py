"""What operators do to a Redis: TLS, access lists, limits, restarts, dangerous settings."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis

from tests.servers import free_port, redis_server
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    ConnectionLost,
    ImproperlyConfigured,
    StorageError,
    TransportError,
)
from umbel.ids import new_id
from umbel.message import Effects, Message, ResultRecord
from umbel.servers.redis import connection
from umbel.servers.seams import Server
from umbel.states import SUCCESS
from umbel.topology import Queue, Topology

PATIENCE = 60.0


def publish(server: Server, *messages: Message) -> None:
    server.transport.publish(messages, deadline=SYSTEM_CLOCK.monotonic() + PATIENCE)


def use(server: Server) -> None:
    """Do what a worker and a client do."""
    server.transport.declare(Topology(queues=(Queue("work"),)))
    task = Message(new_id(), b"[]", {}, "work")
    publish(server, task, Message(new_id(), b"[]", {}, "work", not_before=4e9))
    consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=60.0)
    (delivery,) = consumer.receive(1, timeout=PATIENCE)
    record = ResultRecord(task.id, b"{}", SUCCESS)
    follow_up = Message(new_id(), b"[]", {}, "work")
    server.committer.commit([Effects(delivery, results=(record,), publish=(follow_up,))])
    watch = server.results.watch()
    watch.add([task.id])
    assert watch.receive(PATIENCE) == [(task.id, b"{}")]
    watch.close()
    assert server.ledger is not None
    assert server.bus is not None
    server.ledger.announce("node", {}, expires_in=60.0)
    server.ledger.revoke(["x"], expires_in=60.0)
    listener = server.bus.listen("celery.pidbox")
    server.bus.broadcast(Message("", b"{}", {}, "", "celery.pidbox"))
    assert len(listener.receive(PATIENCE)) == 1
    listener.close()
    consumer.receive(1, timeout=0.0)
    consumer.receive(1, timeout=0.01)
    server.transport.recover()
    server.transport.depth(["work"])
    consumer.close()
    server.transport.purge(["work"])


# --- ways in


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that its own file vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_url(server_directory: Path, certificates: Path) -> Iterator[str]:
    port = free_port()
    key, certificate = str(certificates / "key.pem"), str(certificates / "cert.pem")
    options = {
        "--tls-port": str(port),
        "--tls-key-file": key,
        "--tls-cert-file": certificate,
        "--tls-ca-cert-file": certificate,
        "--tls-auth-clients": "no",
    }
    words = [word for pair in options.items() for word in pair]
    with redis_server(server_directory, *words):
        yield f"rediss://127.0.0.1:{port}/0"


def test_tls_with_a_certificate_that_is_checked(tls_url: str, certificates: Path) -> None:
    vouching = quote(str(certificates / "cert.pem"), safe="")
    for query in (
        f"ssl_ca_certs={vouching}",
        f"ssl_ca_certs={vouching}&ssl_cert_reqs=CERT_REQUIRED",
        "ssl_cert_reqs=CERT_NONE",
        "ssl_cert_reqs=none",
    ):
        server = servers.open(f"{tls_url}?{query}")
        use(server)
        server.close()
    given = {"use_ssl": {"ssl_ca_certs": str(certificates / "cert.pem")}}
    server = servers.open(tls_url.replace("rediss:", "redis:"), given)
    use(server)
    server.close()


def test_tls_with_a_certificate_that_nobody_vouches_for(tls_url: str) -> None:
    with pytest.raises(ConnectionLost, match="CERTIFICATE_VERIFY_FAILED"):
        servers.open(tls_url).transport.queues()


#: What the documentation tells operators to allow.
ACCESS = (
    "on >secret resetkeys ~work* ~celery* ~_kombu.* ~unacked* ~umbel:* "
    "resetchannels &celery-task-* &/0.* &umbel:* "
    "-@all +@read +@write +@scripting +@pubsub +@connection +time -@dangerous"
)


def test_an_access_list_with_no_more_than_is_needed(own_redis_url: str, own_redis: Any) -> None:
    own_redis.execute_command("ACL", "SETUSER", "umbel", *ACCESS.split())
    place = urlsplit(own_redis_url).netloc
    server = servers.open(f"redis://umbel:secret@{place}/0")
    use(server)
    assert server.warnings() == []  # it may not look
    server.close()


def test_what_an_access_list_forbids_is_said(own_redis_url: str, own_redis: Any) -> None:
    own_redis.execute_command("ACL", "SETUSER", "umbel", *ACCESS.replace(" ~work*", "").split())
    server = servers.open(f"redis://umbel:secret@{urlsplit(own_redis_url).netloc}/0")
    server.transport.declare(Topology(queues=(Queue("work"),)))
    with pytest.raises(TransportError, match=r"permission|access"):
        publish(server, Message("x", b"", {}, "work"))
    server.close()


def test_a_server_that_does_not_track_keys_is_asked(own_redis_url: str, own_redis: Any) -> None:
    own_redis.execute_command("ACL", "SETUSER", "umbel", *ACCESS.split(), "-client|tracking")
    place = f"redis://umbel:secret@{urlsplit(own_redis_url).netloc}/0"
    server = servers.open(place, {"polling_interval": 0.05})
    server.transport.declare(Topology(queues=(Queue("work"),)))
    consumer = server.transport.consume(["work"], consumer_id=new_id(), lease=60.0)
    assert consumer.receive(1, timeout=0.1) == []
    began = SYSTEM_CLOCK.monotonic()
    with redis.Redis.from_url(own_redis_url) as other:
        other.lpush("work", "no message")
    assert len(consumer.receive(1, timeout=PATIENCE)) == 1
    assert SYSTEM_CLOCK.monotonic() - began < PATIENCE / 2
    consumer.close()
    server.close()


# --- what is dangerous is said


def test_a_server_that_keeps_nothing_and_evicts_is_warned_of(
    own_redis_url: str, own_redis: Any
) -> None:
    server = servers.open(own_redis_url)
    (unkept,) = server.warnings()
    assert "keeps nothing on disk" in unkept
    own_redis.config_set("maxmemory-policy", "allkeys-lru")
    evicting, _ = server.warnings()
    assert "allkeys-lru): messages and results may be lost" in evicting
    own_redis.config_set("maxmemory-policy", "volatile-ttl")
    assert "volatile-ttl): results may be lost" in server.warnings()[0]
    own_redis.config_set("maxmemory-policy", "noeviction")
    own_redis.config_set("save", "3600 1")
    assert server.warnings() == []
    own_redis.config_set("save", "")
    own_redis.config_set("appendonly", "yes")
    assert server.warnings() == []
    own_redis.config_set("appendonly", "no")  # or its end takes long
    server.close()


def test_an_old_server_is_refused(own_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MINIMUM_VERSION", (99, 1))
    with pytest.raises(ImproperlyConfigured, match=r"is Redis \d+\.\d+: 99\.1 or newer is needed"):
        servers.open(own_redis_url).transport.queues()


def test_a_cluster_is_refused(server_directory: Path) -> None:
    with (
        redis_server(server_directory, "--cluster-enabled", "yes") as process,
        pytest.raises(ImproperlyConfigured, match="is a Redis Cluster"),
    ):
        servers.open(process.url).transport.queues()


def test_a_database_that_the_server_has_not_is_said(own_redis_url: str) -> None:
    url = own_redis_url.removesuffix("/0") + "/4000"
    with pytest.raises(TransportError, match=r"out of range\. It has fewer databases than that\.$"):
        servers.open(url).transport.queues()


# --- trouble


@pytest.mark.timeout(150)  # a busy machine makes each of its short sleeps ten times as long
def test_a_server_that_loads_its_data_is_waited_for(server_directory: Path) -> None:
    # Given a server that takes two seconds to load what it has
    options = ("--appendonly", "yes", "--key-load-delay", "400")
    with redis_server(server_directory, *options) as process:
        server = servers.open(process.url)
        server.transport.declare(Topology(queues=(Queue("work"),)))
        server.results.put([ResultRecord(new_id(), b"{}", SUCCESS) for _ in range(5000)])
        publish(server, Message("x", b"[]", {}, "work"))
        process.kill()
        # When it starts again, then it says that it is loading, and later has all
        starting = threading.Thread(target=process.start)
        starting.start()
        said = eventually(lambda: server.transport.depth(["work"])["work"].ready == 1)
        starting.join()
        assert any("LOADING" in each for each in said), said
        server.close()


def test_a_server_with_too_few_replicas_refuses_with_its_reason(
    own_redis_url: str, own_redis: Any
) -> None:
    server = servers.open(own_redis_url)
    server.transport.declare(Topology(queues=(Queue("work"),)))
    own_redis.config_set("min-replicas-to-write", "1")
    with pytest.raises(StorageError, match="NOREPLICAS"):
        publish(server, Message("x", b"", {}, "work"))
    server.close()


@pytest.mark.parametrize("seconds", [0.5])
def test_a_slow_server_delays_and_breaks_nothing(
    own_redis_url: str, own_redis: Any, seconds: float
) -> None:
    server = servers.open(own_redis_url, {"socket_timeout": 5.0})
    use(server)
    own_redis.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
    began = SYSTEM_CLOCK.monotonic()
    use(server)
    assert SYSTEM_CLOCK.monotonic() - began > seconds / 2
    server.close()


def eventually(what: Callable[[], bool]) -> list[str]:
    """Try until it is so; return what was said meanwhile."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    said: list[str] = []
    while True:
        try:
            if what():
                return said
        except ConnectionLost as error:
            said.append(str(error))
        assert SYSTEM_CLOCK.monotonic() < deadline
        SYSTEM_CLOCK.sleep(0.02)
