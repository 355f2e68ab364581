"""Ways to name and to enter a Redis server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tests.servers import redis_server
from umbel import servers
from umbel.exceptions import ConnectionLost, ImproperlyConfigured, TransportError
from umbel.servers.redis.keys import Keys
from umbel.servers.redis.options import parse
from umbel.topology import Queue, Topology


def test_a_unix_socket_with_celerys_way_to_name_the_database(server_directory: Path) -> None:
    path = server_directory / "socket"
    with redis_server(server_directory, "--unixsocket", str(path)):
        server = servers.open(f"redis+socket://{path}?virtual_host=3")
        server.transport.declare(Topology(queues=(Queue("work"),)))
        plain = redis.Redis(unix_socket_path=str(path), db=3)
        assert plain.hkeys("umbel:queues") == [b"work"]
        plain.close()
        server.close()


def test_a_password_is_needed_and_never_shown(server_directory: Path) -> None:
    with redis_server(server_directory) as redis_process:
        with redis.Redis.from_url(redis_process.url) as admin:
            admin.config_set("requirepass", "secret")
        address = urlsplit(redis_process.url).netloc
        server = servers.open(f"redis://:secret@{address}/0")
        assert server.display_url == f"redis://:**@{address}/0"
        assert server.transport.queues() == []
        server.close()
        for url in (f"redis://{address}/0", f"redis://:wrong@{address}/0"):
            with pytest.raises(TransportError, match=address) as caught:
                servers.open(url).transport.queues()
            assert "wrong" not in str(caught.value)


def test_nobody_there_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionLost, match="cannot connect to redis:"):
        servers.open("redis://127.0.0.1:1/0").transport.queues()


@pytest.mark.parametrize(
    ("url", "connection"),
    [
        ("redis://", {}),
        ("redis://host:1234/5", {"host": "host", "port": 1234, "db": 5}),
        ("redis://user:p%40ss@host/1", {"username": "user", "password": "p@ss", "db": 1}),
        ("redis://host/0?virtual_host=7", {"db": 7}),
        ("redis+socket:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("redis+socket:///run/redis.sock?virtual_host=2", {"path": "/run/redis.sock", "db": 2}),
        ("redis://host/0?socket_timeout=3", {}),
    ],
)
def test_urls_say_where_the_server_is(url: str, connection: dict[str, Any]) -> None:
    parsed = parse(url, {})
    assert parsed.connection.items() >= connection.items()
    assert parsed.socket_timeout == (3.0 if "socket_timeout" in url else 30.0)


def test_options_reach_the_connection() -> None:
    connection = parse("redis://h", {"connect_timeout": 7.0, "socket_keepalive": True}).connection
    assert connection["socket_connect_timeout"] == 7.0
    assert connection["socket_keepalive"] is True
    options = {"connect_timeout": 7.0, "socket_connect_timeout": 2.0, "credential_provider": "c"}
    connection = parse("redis://h", options).connection
    assert (connection["socket_connect_timeout"], connection["credential_provider"]) == (2.0, "c")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sentinel://host:26379", {}),  # without a master's name
        ("redis://", {"priority_steps": [3, 6]}),
        ("redis://", {"highest_priority": 5}),
        ("redis://host/0?db=x", {}),
    ],
)
def test_nonsense_is_refused_at_once(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured):
        servers.open(url, options)


def test_options_change_the_layout_as_they_do_for_kombu() -> None:
    options = {"global_keyprefix": "P:", "sep": ":", "priority_steps": range(3)}
    keys = Keys(parse("redis://", options))
    assert keys.lists("work") == ["P:work", "P:work:1", "P:work:2"]
    assert [keys.suffix(each) for each in (-1, 0, 1, 2, 9, 255)] == ["", "", ":1", ":2", ":2", ":2"]
    assert [keys.queue(each) for each in keys.lists("work")] == ["work"] * 3
    assert keys.bindings == "P:_kombu.binding."
    assert keys.held == "P:umbel:held:"


def test_the_prefix_of_results_is_their_own_and_gets_a_separator() -> None:
    def prefix(**options: str) -> str:
        return Keys(parse("redis://", options)).results

    assert prefix(global_keyprefix="B:") == "celery-task-meta-"
    assert prefix(result_keyprefix="R") == "R_celery-task-meta-"
    assert prefix(result_keyprefix="R:") == "R:celery-task-meta-"
