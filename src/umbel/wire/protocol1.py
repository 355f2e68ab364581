"""Protocol 1, which Celery 3 spoke: everything in the body, no headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umbel.exceptions import InvalidTaskError
from umbel.wire.names import KNOWN_HEADERS


def body(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    headers: Mapping[str, Any],
    embed: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body that says what protocol 2 says with these headers."""
    return {
        "task": headers["task"],
        "id": headers["id"],
        "args": args,
        "kwargs": kwargs,
        "group": headers["group"],
        "group_index": headers["group_index"],
        "retries": headers["retries"],
        "eta": headers["eta"],
        "expires": headers["expires"],
        "utc": True,
        "callbacks": embed.get("callbacks"),
        "errbacks": embed.get("errbacks"),
        "timelimit": headers["timelimit"],
        "taskset": headers["group"],
        "chord": embed.get("chord"),
    }


def upgraded(headers: Mapping[str, Any], content: Any) -> tuple[dict[str, Any], Any]:
    """Return headers and body as protocol 2 would have them. Raises InvalidTaskError."""
    if not isinstance(content, dict) or "task" not in content or "id" not in content:
        raise InvalidTaskError("no task message: neither header 'task' nor a body of protocol 1")
    told = {name: value for name, value in content.items() if name in KNOWN_HEADERS}
    if "taskset" in content:
        told["group"] = content["taskset"]
    if content.get("utc") is False:
        told["utc"] = False
    embed = {name: content.get(name) for name in ("callbacks", "errbacks", "chord")}
    return {**headers, **told}, [content.get("args", []), content.get("kwargs", {}), embed]
