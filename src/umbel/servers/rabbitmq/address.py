"""From a URL, or several, to what a connection needs; without I/O."""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import pika
from pika.credentials import ExternalCredentials

from umbel.exceptions import ImproperlyConfigured

_TLS_OPTIONS = {"keyfile", "certfile", "ca_certs", "cert_reqs"}
_PORT, _TLS_PORT = 5672, 5671
#: Seconds until a connection attempt to one address is given up.
_CONNECT_TIMEOUT = 4.0
#: A peer that vanished (its machine off, its entry in a firewall forgotten) is noticed within one
#: and a half minutes, also on connections without heartbeats; sooner when something is under way.
_TCP = {
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is and how it is entered. Several URLs are tried in their order."""

    urls: tuple[SplitResult, ...]
    connect_timeout: float = _CONNECT_TIMEOUT
    tls: ssl.SSLContext | None = None
    #: Several URLs are tried in an order of chance.
    shuffled: bool = False
    #: We are who our TLS certificate says.
    by_certificate: bool = False

    @property
    def display_url(self) -> str:
        """All URLs, without passwords."""
        return ";".join(_display(url) for url in self.urls)

    @property
    def vhost(self) -> str:
        """The virtual host of the first URL."""
        return _vhost(self.urls[0])

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password of the first URL."""
        return _user(self.urls[0])

    def parameters(self, *, heartbeat: int, name: str) -> list[Any]:
        """Return pika's parameters for each address. ``heartbeat`` in seconds; 0 = none."""
        urls = random.sample(self.urls, len(self.urls)) if self.shuffled else self.urls
        return [self._parameters(url, heartbeat, name) for url in urls]

    def _parameters(self, url: SplitResult, heartbeat: int, name: str) -> Any:
        host = url.hostname or "localhost"
        secure = url.scheme == "amqps"
        context = (self.tls or ssl.create_default_context()) if secure else None
        return pika.ConnectionParameters(
            host=host,
            port=url.port or (_TLS_PORT if secure else _PORT),
            virtual_host=_vhost(url),
            credentials=self._credentials(url),
            heartbeat=heartbeat,
            ssl_options=pika.SSLOptions(context, host) if context else None,
            connection_attempts=1,
            socket_timeout=self.connect_timeout,
            stack_timeout=self.connect_timeout * 1.5,
            client_properties={"connection_name": name, "product": "umbel"},
            tcp_options=_TCP,
        )

    def _credentials(self, url: SplitResult) -> Any:
        if self.by_certificate:
            return ExternalCredentials()
        return pika.PlainCredentials(*_user(url))


def read(url: str, options: Mapping[str, Any]) -> Address:
    """Read a URL, or several with ``;`` between them. Raises ImproperlyConfigured."""
    urls = tuple(urlsplit(each.strip()) for each in url.split(";") if each.strip())
    for each in urls:
        try:
            known = each.scheme in ("amqp", "amqps", "pyamqp") and each.port != 0
        except ValueError:
            known = False
        if not known:
            raise ImproperlyConfigured(
                f"expected amqp://user:password@host:port/vhost, got {_display(each)!r}"
            )
    if options.get("use_ssl"):
        urls = tuple(each._replace(scheme="amqps") for each in urls)
    return Address(
        urls,
        float(options.get("connect_timeout") or _CONNECT_TIMEOUT),
        options.get("tls") or _context(options.get("use_ssl")),
        shuffled=options.get("failover_strategy") == "shuffle",
        by_certificate=options.get("login_method") == "EXTERNAL",
    )


def _context(tls: Any) -> ssl.SSLContext | None:
    """Return what ``broker_use_ssl`` says, if it is a dict."""
    if not isinstance(tls, Mapping):
        return None
    given = {str(name).removeprefix("ssl_"): value for name, value in tls.items()}
    unknown = given.keys() - _TLS_OPTIONS
    if unknown:
        expected = ", ".join(sorted(_TLS_OPTIONS))
        raise ImproperlyConfigured(f"broker_use_ssl: expected {expected}, got {min(unknown)!r}")
    try:
        context = ssl.create_default_context(cafile=given.get("ca_certs"))
        if given.get("certfile"):
            context.load_cert_chain(given["certfile"], given.get("keyfile"))
    except OSError as error:  # ssl.SSLError is one
        raise ImproperlyConfigured(f"broker_use_ssl: {error}") from error
    required = given.get("cert_reqs", ssl.CERT_REQUIRED)
    if required != ssl.CERT_REQUIRED:
        context.check_hostname = False
        context.verify_mode = required
    return context


def _vhost(url: SplitResult) -> str:
    # As Celery's programs read it: no path and "/" both mean the vhost "/", "//" too.
    return unquote(url.path[1:]) or "/"


def _user(url: SplitResult) -> tuple[str, str]:
    return unquote(url.username or "guest"), unquote(url.password or "guest")


def _display(url: SplitResult) -> str:
    return url._replace(
        netloc=f"{url.username or 'guest'}@{url.netloc.rpartition('@')[2]}"
    ).geturl()
