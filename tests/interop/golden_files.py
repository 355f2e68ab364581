"""Read golden files, and take messages apart with nothing of umbel."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import yaml

GOLDEN = Path(__file__).parent / "golden"

_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.decompress,
    "application/x-bz2": bz2.decompress,
    "application/x-lzma": lzma.decompress,
}
_LOADS: dict[str, Callable[[bytes], Any]] = {
    "application/json": json.loads,
    "application/x-python-serialize": pickle.loads,
    "application/x-yaml": yaml.safe_load,
    "application/x-msgpack": msgpack.unpackb,
}


def cases(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return found


def opened(envelope: str | bytes) -> dict[str, Any]:
    """Return an envelope with its body decoded, so that two can be compared as values.

    Without umbel's own property, which is one more than Celery sends.
    """
    whole: dict[str, Any] = json.loads(envelope)
    whole["properties"].pop("umbel", None)
    assert whole["properties"]["body_encoding"] == "base64"
    whole["body"] = body_value(whole, base64.b64decode(whole["body"]))
    return whole


def body_value(whole: dict[str, Any], body: bytes) -> Any:
    compression = whole["headers"].get("compression")
    if compression is not None:
        body = _DECOMPRESS[compression](body)
    value = _LOADS[whole["content-type"]](body)
    return [*value] if isinstance(value, tuple) else value
