"""Kinds of setting values: what each takes, and how it is read from the text of a variable.

A ``Setting`` is one row of the table in ``umbel.settings.table``, and the attribute through which a
configuration is read and written, so that ``app.conf.task_always_eager`` is a ``bool`` for a type
checker as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, overload

from umbel.exceptions import ImproperlyConfigured

T = TypeVar("T")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class Owner(Protocol):
    """A configuration: what the settings are attributes of."""

    def value_of(self, name: str) -> Any:
        """Return the effective value."""

    def assign(self, name: str, value: Any) -> None:
        """Set the value for the program."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What values a setting takes."""

    #: As it reads in "expected …".
    what: str
    #: Returns the value as it is kept; raises TypeError or ValueError.
    check: Callable[[Any], T]
    #: Reads the text of an environment variable; ``check`` sees what it returns.
    read: Callable[[str], Any]


class Setting(Generic[T]):
    """One row of the table. Belongs to the class it is declared in; never changed."""

    __slots__ = ("celery", "default", "kind", "name", "note", "old", "secret", "unused")

    def __init__(
        self,
        kind: Kind[T],
        default: T,
        note: str,
        *,
        old: str = "",
        celery: str = "",
        secret: bool = False,
        unused: str = "",
    ) -> None:
        self.name = ""
        self.kind = kind
        self.default = default
        #: One sentence for the documentation.
        self.note = note
        #: Celery's old upper-case names, separated by blanks.
        self.old = tuple(old.split())
        #: Celery's default where it is another, as text.
        self.celery = celery
        #: Its value may hold a password: masked in reports.
        self.secret = secret
        #: Why nothing happens when it is set; "" = it has its effect.
        self.unused = unused

    def __set_name__(self, owner: type, name: str) -> None:
        """Learn the name; be there under the old ones too."""
        self.name = name
        for old in self.old:
            setattr(owner, old, self)

    @overload
    def __get__(self, config: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, config: Owner, owner: type) -> T: ...
    def __get__(self, config: Owner | None, owner: type) -> Setting[T] | T:
        """Return the effective value; of the class, the row."""
        if config is None:
            return self
        value: T = config.value_of(self.name)
        return value

    def __set__(self, config: Owner, value: Any) -> None:
        """Set the value for the program."""
        config.assign(self.name, value)

    def parse(self, value: Any, source: str) -> T:
        """Return the value as it is kept; raises ImproperlyConfigured naming the source."""
        try:
            return self.kind.check(value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(
                f"{self.name}: expected {self.kind.what}, got {self._shown(value)} (from {source})"
            ) from error

    def parse_text(self, text: str, source: str) -> T:
        """Return the value of a text as an environment variable has it."""
        try:
            value = self.kind.read(text)
        except ValueError as error:
            raise ImproperlyConfigured(
                f"{self.name}: expected {self.kind.what}, got {self._shown(text)} (from {source})"
            ) from error
        return self.parse(value, source)

    def _shown(self, value: Any) -> str:
        return f"a {type(value).__name__} (not shown: secret)" if self.secret else repr(value)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return a kind that takes None too; as text it is empty or ``none``."""

    def check(value: Any) -> T | None:
        return None if value is None else kind.check(value)

    def read(text: str) -> Any:
        return None if text.strip().lower() in ("", "none", "null") else kind.read(text)

    return Kind(f"{kind.what} or None", check, read)


def choice(*allowed: str) -> Kind[str]:
    """Return a kind that takes one of these words."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(value)
        return str(value)

    return Kind("one of " + ", ".join(repr(word) for word in allowed), check, str)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise TypeError(value)


def _read_boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(text)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return value


def _seconds(value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    if seconds < 0:
        raise ValueError(value)
    return seconds


def _read_number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = _read_names(value)
    return tuple(_text(name) for name in value)


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(value)
    return dict(value)


def _read_json(text: str) -> Any:
    return json.loads(text) if text.strip() else None


def _read_rate(text: str) -> Any:
    return _read_number(text) if text.replace(".", "", 1).isdigit() else text


def _rate(value: Any) -> str | float:
    number, _, unit = str(value).partition("/")
    if isinstance(value, bool) or float(number) < 0 or unit not in ("", "s", "m", "h"):
        raise ValueError(value)
    return value if isinstance(value, str) else float(value)


def _lines_or_urls(value: Any) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else _names(value)


BOOLEAN = Kind("True or False", _boolean, _read_boolean)
INTEGER = Kind("a whole number", _integer, int)
NUMBER = Kind("a number", _number, _read_number)
SECONDS = Kind("a number of seconds or a timedelta", _seconds, _read_number)
TEXT = Kind("a text", _text, str)
NAMES = Kind("a list of names", _names, _read_names)
MAPPING = Kind("a dict", _mapping, _read_json)
RATE = Kind("a rate such as '10/m', '3/s' or '100/h'", _rate, _read_rate)
URLS = Kind("a URL or a list of URLs", _lines_or_urls, str)


def _anything(value: Any) -> Any:
    return value


ANYTHING: Kind[Any] = Kind("any value", _anything, _read_json)
