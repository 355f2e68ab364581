"""Settings seen from outside: what they change in a worker, a program, a connection."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pika.credentials import ExternalCredentials

from tests.system import engines
from umbel import Umbel, group, ids, servers
from umbel.exceptions import ContentDisallowed, ImproperlyConfigured, TransportError
from umbel.servers.rabbitmq import address
from umbel.topology import Exchange
from umbel.worker.board import Board
from umbel.worker.launch import Worker, WorkerOptions

PATIENCE = 60.0


def test_a_worker_can_be_addressed_directly(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/direct.db"
    app = Umbel("direct", broker=url, worker_direct=True, set_as_current=False)
    add = app.task(name="add")(lambda x, y: x + y)
    node = ids.node_name("umbel@%h")
    with engines.running(app):
        result = add.apply_async((2, 3), exchange=Exchange("C.dq2"), routing_key=node)
        assert result.get(timeout=PATIENCE) == 5
        assert f"{node}.dq2" in app.servers().broker.transport.queues()
    app.close()


@pytest.mark.parametrize("alone", [True, False])
def test_a_process_may_hold_nothing_beyond_what_it_runs(*, alone: bool) -> None:
    app = Umbel(
        "alone",
        broker=f"memory://{ids.new_id()}",
        worker_disable_prefetch=alone,
        set_as_current=False,
    )
    transport = app.servers().broker.transport
    task = app.task(name="held")(lambda: transport.depth(["celery"])["celery"].held)
    with engines.running(app):
        for _ in range(20):  # it is known to be a quick one now
            task.delay().get(timeout=PATIENCE)
        results = group(task.s() for _ in range(100)).apply_async()
        assert (max(results.get(timeout=PATIENCE)) == 1) is alone
    app.close()


def test_a_worker_and_other_programs_may_have_addresses_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from umbel import Umbel\n"
        "app = Umbel('tasks', broker_url='sqlite:///none/of/both.db',\n"
        f"    broker_read_url='sqlite:///{tmp_path}/read.db',\n"
        f"    broker_write_url='sqlite:///{tmp_path}/write.db')\n"
    )
    shown = worker_that_ends_when_ready(tmp_path)
    assert "read.db" in shown.stdout, shown.stderr
    program(tmp_path, "-c", "import tasks; tasks.app.send_task('x')")
    assert (tmp_path / "write.db").exists()
    other = f"sqlite:///{tmp_path}/other.db"
    program(tmp_path, "-m", "umbel", "call", "x", "-A", "tasks", "-b", other)
    assert (tmp_path / "other.db").exists()
    assert "other.db" in worker_that_ends_when_ready(tmp_path, "-b", other).stdout


def test_a_worker_says_which_settings_ask_for_what_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from umbel import Umbel\n"
        f"app = Umbel('tasks', 'sqlite:///{tmp_path}/x.db', worker_prefetch_multiplier=1)\n"
        "app.conf.security_digest = 'sha512'\n"
    )
    shown = worker_that_ends_when_ready(tmp_path)
    assert "security_digest has no effect: umbel signs no messages" in shown.stderr
    assert "worker_prefetch_multiplier" not in shown.stderr


def worker_that_ends_when_ready(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import signal, umbel.signals as s\n"
        "from umbel.cli.main import main\n"
        "stop = lambda sender, **_: signal.raise_signal(signal.SIGTERM)\n"
        "s.worker_ready.connect(stop)\n"
        f"main(['worker', '-A', 'tasks', '-c', '1', *{options!r}])\n"
    )
    return program(folder, "-c", code)


def test_a_worker_gives_up_on_its_broker_when_it_was_told_to(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from umbel import Umbel\n"
        "app = Umbel('tasks', 'redis://127.0.0.1:1', broker_connection_max_retries=1)\n"
    )
    done = program(tmp_path, "-m", "umbel", "worker", "-A", "tasks")
    assert done.returncode == 1
    assert "cannot connect" in done.stderr


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_results_of_a_content_type_that_is_not_accepted_are_not_read() -> None:
    app = Umbel(
        "refusing",
        broker=f"memory://{ids.new_id()}",
        result_serializer="yaml",
        result_accept_content=["json"],
        set_as_current=False,
    )
    task = app.task(name="one")(lambda: 1)
    with engines.running(app):
        result = task.delay()
        with pytest.raises(ContentDisallowed, match="application/x-yaml"):
            result.get(timeout=PATIENCE)
        app.conf.result_accept_content = ["json", "yaml"]
        assert app.AsyncResult(result.id).get(timeout=PATIENCE) == 1
    app.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_remote_control_may_be_switched_off(*, enabled: bool) -> None:
    app = Umbel("x", "redis://127.0.0.1:1", set_as_current=False)
    app.conf.worker_enable_remote_control = enabled
    node = Worker(app, WorkerOptions()).make_node(Board(1, entries=1))
    assert (node._orders is not None) is enabled
    app.close()


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextlib.contextmanager
def encrypted(url: str, certificate: tuple[Path, Path]) -> Generator[str]:
    """Serve TLS before a server that has none; yield its URL there."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    inner = listening.accept()[0]
                except OSError:
                    return
                outer = (parts.hostname or "", parts.port or 0)
                threading.Thread(target=relay, args=(context, inner, outer), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        place = parts.netloc.rpartition("@")[0]
        port = listening.getsockname()[1]
        yield parts._replace(netloc=f"{place}{'@' if place else ''}localhost:{port}").geturl()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


def relay(context: ssl.SSLContext, plain: socket.socket, target: tuple[str, int]) -> None:
    with (
        contextlib.suppress(OSError),  # the client does not trust us, or has left
        context.wrap_socket(plain, server_side=True) as client,
        socket.create_connection(target) as server,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                source: Any = key.fileobj
                data = source.recv(1 << 16)
                while isinstance(source, ssl.SSLSocket) and source.pending():
                    data += source.recv(1 << 16)
                if not data:
                    return
                key.data.sendall(data)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_tls_is_switched_on_by_a_setting(
    scheme: str, request: pytest.FixtureRequest, certificate: tuple[Path, Path]
) -> None:
    plain: str = request.getfixturevalue("redis_url" if scheme == "redis" else "rabbitmq_url")
    with encrypted(plain, certificate) as url:
        assert url.startswith(f"{scheme}:")
        trusting = {"ca_certs": str(certificate[0]), "cert_reqs": ssl.CERT_REQUIRED}
        for tls in (trusting, {"cert_reqs": ssl.CERT_NONE}):
            app = Umbel("tls", broker=url, broker_use_ssl=tls, set_as_current=False)
            assert app.servers().broker.transport.depth(["none"]) == {}
            app.close()
        app = Umbel("tls", broker=url, broker_use_ssl=True, set_as_current=False)
        with pytest.raises(TransportError):  # nobody vouches for this certificate
            app.servers().broker.transport.depth(["none"])
        app.close()


def test_tls_of_a_result_store_is_its_own_matter(
    redis_url: str, certificate: tuple[Path, Path]
) -> None:
    with encrypted(redis_url, certificate) as url:
        tls = {"ssl_ca_certs": str(certificate[0])}
        app = Umbel("tls", broker="memory://", backend=url, set_as_current=False)
        app.conf.redis_backend_use_ssl = tls
        assert app.servers().results.get(["none"]) == {}
        app.close()


def test_tls_options_that_make_no_sense() -> None:
    with pytest.raises(ImproperlyConfigured, match="got 'cafile'"):
        servers.open("amqp://localhost", {"use_ssl": {"cafile": "x"}})
    with pytest.raises(ImproperlyConfigured, match="broker_use_ssl"):
        servers.open("amqp://localhost", {"use_ssl": {"ca_certs": "/none"}})


# --- RabbitMQ


def test_who_we_are_may_be_what_our_certificate_says() -> None:
    found = address.read("amqps://localhost", {"login_method": "EXTERNAL"})
    (parameters,) = found.parameters(heartbeat=0, name="test")
    assert isinstance(parameters.credentials, ExternalCredentials)


def test_several_addresses_may_be_tried_in_an_order_of_chance() -> None:
    urls = ";".join(f"amqp://h{number}" for number in range(20))
    orders = [
        [
            [each.host for each in address.read(urls, options).parameters(heartbeat=0, name="")]
            for _ in range(2)
        ]
        for options in ({}, {"failover_strategy": "shuffle"})
    ]
    assert orders[0][0] == orders[0][1] == sorted(orders[0][0], key=lambda host: int(host[1:]))
    assert orders[1][0] != orders[1][1]
