"""How a file is opened: what a URL's query and ``broker_transport_options`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.exceptions import ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class Options:
    """See the fields; those of other servers are passed over."""

    #: NORMAL survives the death of every process; FULL also a power cut, for an fsync per commit.
    synchronous: str = "NORMAL"
    #: Seconds after which dead letters are deleted; None = never.
    dead_letters_expire: float | None = 30 * 86400.0
    #: Bytes that the body of a message may have.
    max_message_size: int = 128 << 20
    clock: Clock = SYSTEM_CLOCK

    @staticmethod
    def read(given: Mapping[str, Any]) -> Options:
        """Take what concerns the file out of a server's options. Raises ImproperlyConfigured."""
        defaults = Options()
        synchronous = str(given.get("synchronous", defaults.synchronous)).upper()
        if synchronous not in ("NORMAL", "FULL"):
            raise ImproperlyConfigured(f"synchronous: expected NORMAL or FULL, got {synchronous!r}")
        expire = given.get("dead_letters_expire", defaults.dead_letters_expire)
        return Options(
            synchronous,
            None if expire in (None, "", "None") else _number("dead_letters_expire", expire),
            int(_number("max_message_size", given.get("max_message_size", 128 << 20))),
            given.get("clock", SYSTEM_CLOCK),
        )


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(f"{name}: expected a number, got {value!r}") from None
    if not number > 0:
        raise ImproperlyConfigured(f"{name}: expected more than 0, got {value!r}")
    return number
