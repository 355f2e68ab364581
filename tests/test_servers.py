"""The suite's own servers: what the fixtures promise, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers import (
    Server,
    ServerError,
    answers,
    free_port,
    postgresql_server,
    program,
    rabbitmq_server,
    redis_server,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


def test_killed_redis_comes_back_with_its_data(server_directory: Path) -> None:
    with redis_server(server_directory, "--appendonly", "yes", "--appendfsync", "always") as redis:
        port = port_of(redis.url)
        assert answers(port, b"SET key value\r\n", b"+OK")
        redis.kill()
        assert not answers(port, b"PING\r\n", b"+PONG")
        redis.start()
        assert answers(port, b"GET key\r\n", b"$5\r\nvalue")


def test_frozen_server_keeps_its_connections_and_says_nothing(server_directory: Path) -> None:
    with redis_server(server_directory) as redis:
        redis.freeze()
        assert not answers(port_of(redis.url), b"PING\r\n", b"+PONG")
        redis.thaw()
        assert answers(port_of(redis.url), b"PING\r\n", b"+PONG")


def test_private_rabbitmq_comes_back_on_its_port(server_directory: Path) -> None:
    with rabbitmq_server(server_directory) as rabbitmq:
        rabbitmq.stop()
        rabbitmq.start()
        assert answers(port_of(rabbitmq.url), b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")


def test_private_postgresql_comes_back_on_its_port(server_directory: Path) -> None:
    with postgresql_server(server_directory, "synchronous_commit=off") as postgresql:
        postgresql.kill()
        postgresql.start()
        assert postgresql.pid


def test_each_test_gets_a_namespace_of_its_own(
    new_redis_url: Callable[[], str],
    new_rabbitmq_url: Callable[[], str],
    new_postgresql_url: Callable[[], str],
) -> None:
    for new_url in (new_redis_url, new_rabbitmq_url, new_postgresql_url):
        first, second = new_url(), new_url()
        assert first != second
        assert port_of(first) == port_of(second)


def test_missing_program_says_how_to_install_it() -> None:
    with pytest.raises(ServerError, match="no-such-server is not installed: run 'make servers'"):
        program("no-such-server")


def test_failing_server_shows_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no memory, no disk, no luck')"]
    server = Server(command, url="test://", log=tmp_path / "log", ready=lambda: False)
    with pytest.raises(ServerError, match=r"status 0; its log .*log ends:\n  no memory"):
        server.start()


def test_slow_server_is_killed_at_its_deadline(tmp_path: Path) -> None:
    server = Server(["sleep", "60"], url="test://", log=tmp_path / "log", ready=lambda: False)
    with pytest.raises(ServerError, match="was not ready in time"):
        server.start(timeout=0.1)
    with pytest.raises(ServerError, match="is not running"):
        assert server.pid


def test_stop_may_be_repeated(tmp_path: Path) -> None:
    server = Server(["sleep", "60"], url="test://", log=tmp_path / "log", ready=lambda: True)
    with running(server):
        server.stop()
        server.stop()


def test_free_ports_differ() -> None:
    assert len({free_port() for _ in range(50)}) > 1


def test_no_server_outlives_a_killed_run(server_directory: Path) -> None:
    # Given a run in a process of its own, with a shared Redis
    script = """
import sys
from tests import sharing
with sharing.test_run() as run:
    print(sharing.redis_database(run), run, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(server_directory)},
    ) as process:
        assert process.stdout is not None
        url, run = process.stdout.readline().split()
        assert answers(port_of(url), b"PING\r\n", b"+PONG")

        # When it is killed without a chance to clean up
        process.send_signal(signal.SIGKILL)

    # Then the keeper goes too, with its server: it holds this lock until both are gone
    subprocess.run(["flock", "--wait", "30", f"{run}/keepers", "true"], check=True)
    assert not answers(port_of(url), b"PING\r\n", b"+PONG")


def port_of(url: str) -> int:
    found = re.search(r":(\d+)/", url)
    assert found is not None
    return int(found[1])
