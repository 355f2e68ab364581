"""``open(url)``: from a URL to a server; drivers are imported when first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from umbel.exceptions import ImproperlyConfigured
from umbel.servers.seams import Server

#: URL scheme -> module with ``open_server(url, options)``, and the extra that brings its driver.
SCHEMES: dict[str, tuple[str, str]] = {
    "memory": ("umbel.servers.memory", ""),
    "sqlite": ("umbel.servers.sqlite", ""),
    "redis": ("umbel.servers.redis", "redis"),
    "rediss": ("umbel.servers.redis", "redis"),
    "redis+socket": ("umbel.servers.redis", "redis"),
    "sentinel": ("umbel.servers.redis", "redis"),
    "amqp": ("umbel.servers.rabbitmq", "rabbitmq"),
    "amqps": ("umbel.servers.rabbitmq", "rabbitmq"),
    "pyamqp": ("umbel.servers.rabbitmq", "rabbitmq"),
}


def open(url: str, options: Mapping[str, Any] | None = None) -> Server:  # noqa: A001 -- reads `servers.open(url)`
    """Return the server behind this URL; no connection is made before the first use.

    Raises ImproperlyConfigured for an unknown scheme or a missing driver, saying what to install.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ImproperlyConfigured(f"cannot open {scheme!r}: expected a URL beginning with {known}")
    module, extra = SCHEMES[scheme]
    try:
        opener = import_module(module).open_server
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("umbel"):
            raise
        raise ImproperlyConfigured(
            f"{scheme}:// needs a driver that is not installed: pip install 'umbel[{extra}]'"
        ) from error
    return cast("Server", opener(url, dict(options or {})))
