"""From settings to URLs and options of servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from umbel import Umbel
from umbel.addresses import broker_address, result_address
from umbel.config import Config
from umbel.exceptions import ImproperlyConfigured


def values(folder: Path, **settings: Any) -> Any:
    return Config(settings, environ={}, folder=str(folder)).current().values


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "sqlite://"),
        ({"broker_url": "redis://u:p@h:1/2"}, "redis://u:p@h:1/2"),
        ({"broker_url": "redis"}, "redis://"),
        ({"BROKER_HOST": "h", "BROKER_PORT": 5673}, "amqp://h:5673"),
        (
            {"BROKER_HOST": "h", "BROKER_USER": "u", "BROKER_PASSWORD": "p@ss/"},
            "amqp://u:p%40ss%2F@h",
        ),
        ({"BROKER_TRANSPORT": "redis", "BROKER_VHOST": "3"}, "redis://localhost/3"),
        ({"broker_url": "amqp://a:b@h:1/v", "broker_user": "u", "broker_port": 9}, None),
        ({"broker_url": "amqp://h//", "broker_vhost": "v"}, "amqp://h//"),
        ({"broker_url": ["amqp://a", "amqp://b"]}, "amqp://a;amqp://b"),
        ({"broker_url": "redis://a;rediss://b"}, "redis://a;rediss://b"),
        ({"broker_url": "sentinel://a;sentinel://b/1"}, "sentinel://a;sentinel://b/1"),
        ({"broker_url": "amqp://u:a;b@a;amqp://b"}, "amqp://u:a;b@a;amqp://b"),
        ({"broker_url": "amqp://a", "broker_write_url": "amqp://b"}, "amqp://b"),
    ],
)
def test_the_brokers_url(tmp_path: Path, settings: dict[str, Any], url: str | None) -> None:
    assert broker_address(values(tmp_path, **settings)).url == (url or settings["broker_url"])


def test_several_urls_are_refused_where_nobody_could_follow_them(tmp_path: Path) -> None:
    for others in ("sqlite:///b", "amqp://b"):
        with pytest.raises(ImproperlyConfigured, match="all redis://") as caught:
            broker_address(values(tmp_path, broker_url=f"redis://:hidden@a;{others}"))
        assert "hidden" not in str(caught.value)


def test_the_brokers_options_and_what_overrules_them(tmp_path: Path) -> None:
    settings = values(
        tmp_path,
        broker_url="amqp://",
        broker_connection_timeout=7,
        broker_heartbeat=0,
        broker_use_ssl=True,
        broker_login_method="EXTERNAL",
        broker_failover_strategy="shuffle",
        broker_transport_options={"heartbeat": 5, "own": 1},
    )
    assert broker_address(settings).options == {
        "connect_timeout": 7,
        "heartbeat": 5,
        "use_ssl": True,
        "login_method": "EXTERNAL",
        "failover_strategy": "shuffle",
        "own": 1,
    }


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, None),
        ({"result_backend": "rpc"}, None),
        ({"result_backend": "rpc://"}, None),
        ({"broker_url": "redis://h/1", "result_backend": "redis://h/1"}, None),
        ({"broker_url": "redis://h/1", "result_backend": "redis://h/2"}, "redis://h/2"),
        ({"result_backend": "redis", "redis_host": "h", "redis_db": 4}, "redis://h/4"),
        (
            {"result_backend": "redis://", "CELERY_REDIS_PASSWORD": "p", "redis_port": 9},
            "redis://:p@localhost:9",
        ),
        ({"result_backend": "sqlite:///x", "redis_host": "h"}, "sqlite:///x"),
    ],
)
def test_where_results_are_kept(tmp_path: Path, settings: dict[str, Any], url: str | None) -> None:
    found = result_address(values(tmp_path, **settings))
    assert (found.url if found else None) == url


class Provider:
    """As redis-py's."""


@pytest.mark.parametrize("apart", [True, False])
def test_settings_of_redis_concern_the_server_with_the_results(
    tmp_path: Path, *, apart: bool
) -> None:
    settings = values(
        tmp_path,
        broker_url="redis://h/1",
        result_backend="redis://h/2" if apart else None,
        redis_socket_timeout=3,
        redis_client_name="me",
        redis_backend_credential_provider=Provider,
        result_backend_transport_options={"socket_timeout": 1},
    )
    broker, store = broker_address(settings), result_address(settings)
    options = store.options if store else broker.options
    assert options["client_name"] == "me"
    assert isinstance(options["credential_provider"], Provider)
    assert options["socket_timeout"] == (1 if apart else 3)
    assert ("client_name" in broker.options) is not apart


def test_settings_of_redis_concern_nothing_else(tmp_path: Path) -> None:
    settings = values(tmp_path, broker_url="amqp://h", redis_backend_use_ssl={"x": 1})
    assert broker_address(settings).options["use_ssl"] is False


def test_servers_stay_open_until_a_setting_that_names_them_changes(tmp_path: Path) -> None:
    app = Umbel("a", f"memory://{tmp_path.name}", set_as_current=False)
    opened = app.servers()
    app.conf.timezone = "Europe/Rome"
    assert app.servers() is opened
    app.conf.broker_heartbeat = 5
    assert app.servers() is not opened
    app.close()
