"""What AMQP does not tell: the management plugin's HTTP API, where its address is configured.

It lists queues and bindings and counts what consumers hold; its figures are some seconds old. It is
asked for people only, and never changes anything.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from umbel.exceptions import ImproperlyConfigured, TransportError
from umbel.topology import Binding

#: Seconds for one question.
_TIMEOUT = 5.0
_DENIED = (401, 403)


@dataclass(frozen=True, slots=True)
class Management:
    """The API of one virtual host. Thread-safe; each question is a connection of its own."""

    #: http://host:15672, without user and password.
    url: str
    authorization: str
    vhost: str

    def held(self) -> dict[str, int]:
        """Return how many messages the consumers of each queue hold."""
        listed = self._get("queues", "?columns=name,messages_unacknowledged")
        return {each["name"]: each.get("messages_unacknowledged", 0) for each in listed}

    def queues(self) -> list[str]:
        """Return the names of all queues."""
        return [each["name"] for each in self._get("queues", "?columns=name")]

    def bindings(self) -> list[Binding]:
        """Return all bindings but those of every queue to the empty exchange."""
        return [
            Binding(each["source"], each["destination"], each["routing_key"], each["arguments"])
            for each in self._get("bindings")
            if each["source"]
        ]

    def _get(self, what: str, query: str = "") -> list[dict[str, Any]]:
        address = f"{self.url}/api/{what}/{quote(self.vhost, safe='')}{query}"
        request = Request(address, headers={"Authorization": self.authorization})  # noqa: S310 -- ``read`` takes http only
        try:
            with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 -- as above
                found: list[dict[str, Any]] = json.load(answer)
        except HTTPError as error:
            text = f"{self.url} answers {error.code} {error.reason}"
            if error.code in _DENIED:
                text += ": its user needs the tag 'monitoring' and the virtual host"
            raise TransportError(text) from error
        except (URLError, OSError, ValueError) as error:
            raise TransportError(f"the management API at {self.url}: {error}") from error
        return found


def read(options: Mapping[str, Any], *, user: str, password: str, vhost: str) -> Management | None:
    """Return what the option ``management_url`` names; user and password default to AMQP's."""
    given = options.get("management_url")
    if not given:
        return None
    url = urlsplit(str(given))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ImproperlyConfigured("management_url: expected http://user:password@host:15672")
    user, password = unquote(url.username or user), unquote(url.password or password)
    shown = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl().rstrip("/")
    token = b64encode(f"{user}:{password}".encode()).decode()
    return Management(shown, f"Basic {token}", vhost)
