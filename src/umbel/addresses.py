"""From settings to the servers they name: a URL and options each, for ``servers.open``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from umbel.config import import_named
from umbel.exceptions import ImproperlyConfigured
from umbel.servers import SCHEMES
from umbel.settings.kinds import masked
from umbel.settings.table import TABLE

#: Schemes of the servers that take several URLs, those in each that may stand together.
_SEVERAL = ({"amqp", "amqps", "pyamqp"}, {"redis", "rediss"}, {"sentinel"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class _Parts:
    """What settings of their own say of a URL; its own parts count before them."""

    scheme: str | None = None
    user: str | None = None
    password: str | None = None
    host: str | None = None
    port: int | None = None
    path: Any = None


def broker_address(settings: Mapping[str, Any]) -> Address:
    """Return where the broker is."""
    parts = _Parts(
        scheme=settings["broker_transport"],
        user=settings["broker_user"],
        password=settings["broker_password"],
        port=settings["broker_port"],
        path=settings["broker_vhost"],
    )
    given = _broker_url(settings)
    if given == TABLE["broker_url"].default and parts != _Parts():
        given = f"{parts.scheme or 'amqp'}://"
    url = _joined([_completed(each, parts) for each in _listed(given)])
    options = {
        "connect_timeout": settings["broker_connection_timeout"],
        "heartbeat": settings["broker_heartbeat"] or 0,
        "use_ssl": settings["broker_use_ssl"],
        "login_method": settings["broker_login_method"],
        "failover_strategy": settings["broker_failover_strategy"],
    }
    if result_address(settings) is None:
        options |= _redis_options(url, settings)
    return Address(url, {**options, **settings["broker_transport_options"]})


def _broker_url(settings: Mapping[str, Any]) -> Any:
    return settings["broker_write_url"] or settings["broker_url"]


def result_address(settings: Mapping[str, Any]) -> Address | None:
    """Return where results are kept; None = on the broker's server."""
    url = settings["result_backend"]
    if not url or url.partition(":")[0] == "rpc" or _is_broker(url, settings):
        return None
    if url.partition(":")[0] in ("redis", "rediss"):
        parts = _Parts(
            user=settings["redis_username"],
            password=settings["redis_password"],
            host=settings["redis_host"],
            port=settings["redis_port"],
            path=settings["redis_db"],
        )
        url = _completed(url, parts)
    options = {"connect_timeout": settings["broker_connection_timeout"]}
    options |= _redis_options(url, settings)
    return Address(url, {**options, **settings["result_backend_transport_options"]})


def _is_broker(url: str, settings: Mapping[str, Any]) -> bool:
    return set(_listed(url)) <= set(_listed(_broker_url(settings)))


def _redis_options(url: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if not url.startswith(("redis", "sentinel")):
        return {}
    provider = settings["redis_backend_credential_provider"]
    if isinstance(provider, str):
        provider = import_named(provider)
    options = {
        "socket_timeout": settings["redis_socket_timeout"],
        "socket_connect_timeout": settings["redis_socket_connect_timeout"],
        "socket_keepalive": settings["redis_socket_keepalive"] or None,
        "client_name": settings["redis_client_name"],
        "use_ssl": settings["redis_backend_use_ssl"],
        "result_keyprefix": settings["result_backend_transport_options"].get("global_keyprefix"),
        "credential_provider": provider() if isinstance(provider, type) else provider,
    }
    return {name: value for name, value in options.items() if value is not None}


def _listed(urls: str | tuple[str, ...]) -> list[str]:
    # A password may have ";" in it: only what begins like a URL is one.
    pieces = [urls] if isinstance(urls, str) else urls
    return [url for piece in pieces for url in _split(piece)]


def _split(text: str) -> list[str]:
    first, *others = text.split(";")
    urls = [first]
    for piece in others:
        if "://" in piece:
            urls.append(piece)
        elif piece:
            urls[-1] += f";{piece}"
    return urls


def _joined(urls: list[str]) -> str:
    schemes = {url.partition(":")[0] for url in urls}
    if len(urls) > 1 and not any(schemes <= together for together in _SEVERAL):
        shown = ", ".join(masked(url) for url in urls)
        raise ImproperlyConfigured(
            "broker_url: several URLs can be all amqp://, all redis:// or all sentinel://, "
            f"got {shown}"
        )
    return ";".join(urls)


def _completed(url: str, parts: _Parts) -> str:
    if "://" not in url:
        url = f"{url}://" if url in SCHEMES else f"{parts.scheme or 'amqp'}://{url}"
    if parts == _Parts(scheme=parts.scheme):
        return url
    from urllib.parse import quote, urlsplit  # noqa: PLC0415 -- few programs get here

    found = urlsplit(url)
    user, password = found.username or parts.user, found.password
    if password is None and parts.password is not None:
        password = quote(parts.password, safe="")
    entry = quote(user or "", safe="%") + (f":{password}" if password is not None else "")
    port = found.port or parts.port
    place = (found.hostname or parts.host or "localhost") + (f":{port}" if port else "")
    path = found.path
    if path in ("", "/") and parts.path is not None:
        path = f"/{quote(str(parts.path), safe='')}"
    return found._replace(netloc=f"{entry}@{place}" if entry else place, path=path).geturl()
