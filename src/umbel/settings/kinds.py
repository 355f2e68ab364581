"""Kinds of setting values: what each takes, and how it is read from the text of a variable.

A ``Setting`` is one row of the table in ``umbel.settings.table``, and the attribute through which a
configuration is read and written, so that ``app.conf.task_always_eager`` is a ``bool`` for a type
checker as well.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from umbel.exceptions import ImproperlyConfigured

T = TypeVar("T")
V = TypeVar("V")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
_OLD_PREFIXES = (("TASK_", "CELERY_"), ("WORKER_", "CELERYD_"), ("BEAT_", "CELERYBEAT_"))

#: What stands for a secret.
MASK = "********"

# Compiled when first used: most programs never show their configuration.
#: The password of a URL. It may hold "@" and "/"; another URL may follow after ";" or ",".
_USER_INFO = r"(://[^:/?#@\s]*:)(?:(?![;,]\w+://)\S)*@"
_HIDDEN = r"\w*(?:password|passwd|secret|token|api_?key|access_?key|credential)\w*"
_FIELD = rf"(?i)([?&;]{_HIDDEN}=)[^&;\s]*"
_NAME = rf"(?i)(?:{_HIDDEN}|pass|auth)"

#: Celery's default is ours.
SAME: Final[Any] = object()
#: Celery has no such setting.
OURS: Final[Any] = object()


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

    __slots__ = ("celery", "default", "kind", "known", "name", "note", "secret")

    def __init__(
        self,
        kind: Kind[T],
        default: T,
        note: str,
        *,
        celery: Any = SAME,
        old: str = "",
        secret: bool = False,
    ) -> None:
        self.kind = kind
        self.default = default
        #: One or two sentences for the documentation.
        self.note = note
        #: Celery's default.
        self.celery = default if celery is SAME else celery
        #: All of its value is masked in reports.
        self.secret = secret
        self.name = ""
        #: What it is known by; so far Celery's old names that do not follow the rule.
        self.known = tuple(old.split())

    def __set_name__(self, owner: type, name: str) -> None:
        """Learn the name; be there under the old ones too."""
        self.name = name
        self.known = (name, *_old_names(name.upper()), *self.known)
        for known in self.known[1:]:
            setattr(owner, known, self)

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
        return self._checked(value, self.kind.check, source)

    def parse_text(self, text: str, source: str) -> T:
        """Return the value of a text as an environment variable has it."""
        return self.parse(self._checked(text, self.kind.read, source), source)

    def _checked(self, given: Any, check: Callable[[Any], V], source: str) -> V:
        try:
            return check(given)
        except (TypeError, ValueError):
            expected, shown = self.kind.what, self.masked(given)
            raise ImproperlyConfigured(
                f"{self.name}: expected {expected}, got {shown!r} (from {source})"
            ) from None  # the cause may show what is masked here

    def masked(self, value: Any) -> Any:
        """Return a value, what is secret in it masked."""
        return MASK if self.secret and value is not None else masked(value)


def masked(value: Any) -> Any:
    """Return a value with what is secret in it replaced by asterisks."""
    match value:
        case str():
            value = re.sub(_USER_INFO, rf"\1{MASK}@", value)
            return re.sub(_FIELD, rf"\1{MASK}", value)
        case Mapping():
            return {name: _masked_field(name, each) for name, each in value.items()}
        case list():
            return [masked(each) for each in value]
        case tuple():
            return tuple(masked(each) for each in value)
        case _:
            return value


def _masked_field(name: Any, value: Any) -> Any:
    if isinstance(name, str) and re.fullmatch(_NAME, name) and value is not None:
        return MASK
    return masked(value)


class Unused(Setting[T]):
    """Accepted without effect: umbel has no such mechanism; the note says why it needs none."""

    __slots__ = ()


class Missing(Setting[T]):
    """Accepted without effect: what it asks for is not done; the note says so. A worker warns."""

    __slots__ = ()


def _old_names(name: str) -> Iterator[str]:
    """Yield Celery's old names: ``CELERY_ACKS_LATE``, ``CELERYD_POOL``, ``CELERYBEAT_SCHEDULE``."""
    yield name
    yield f"CELERY_{name}"
    for prefix, old in _OLD_PREFIXES:
        if name.startswith(prefix):
            yield old + name.removeprefix(prefix)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return a kind that takes None too; as text it is empty or ``none``."""

    def check(value: Any) -> T | None:
        return None if value is None else kind.check(value)

    def read(text: str) -> Any:
        return None if text.strip().lower() in ("", "none", "null") else kind.read(text)

    return Kind(f"{kind.what} or None", check, read)


def choice(*allowed: T, also: Mapping[Any, T] | None = None) -> Kind[T]:
    """Return a kind that takes one of these values, or what else they are called."""
    known: dict[Any, T] = {each: each for each in allowed} | dict(also or {})
    words = {str(each): each for each in known}

    def check(value: Any) -> T:
        if not isinstance(value, str | int) or value not in known:
            raise ValueError(value)
        return known[value]

    def read(text: str) -> Any:
        return words.get(text, text)

    return Kind("one of " + ", ".join(repr(each) for each in allowed), check, read)


def or_zero(kind: Kind[T]) -> Kind[T | None]:
    """Return a kind that takes None too, and 0 for it."""
    taking_none = optional(kind)

    def check(value: Any) -> T | None:
        return None if value == 0 and not isinstance(value, bool) else taking_none.check(value)

    return Kind(f"{kind.what}, 0 or None", check, taking_none.read)


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
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else _number(value)
    if seconds < 0:
        raise ValueError(value)
    return seconds


def _lasting(value: Any) -> float:
    if not (seconds := _seconds(value)):
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


def _mapping(value: Any) -> dict[str, Any]:
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


def _urls(value: Any) -> str | tuple[str, ...]:
    if not value:
        raise ValueError(value)
    return value if isinstance(value, str) else _names(value)


def _concurrency(value: Any) -> int | None:
    if value in ("auto", None, 0) and not isinstance(value, bool):
        return None
    if _integer(value) < 0:
        raise ValueError(value)
    return int(value)


def _read_concurrency(text: str) -> Any:
    return int(text) if text.strip() not in ("auto", "", "none") else None


def _zone(value: Any) -> str:
    return "UTC" if value is dt.UTC else _text(getattr(value, "key", value))


def _tls(value: Any) -> bool | dict[str, Any]:
    return _mapping(value) if isinstance(value, Mapping) else _boolean(value)


def _read_tls(text: str) -> Any:
    return _read_json(text) if text.lstrip().startswith("{") else _read_boolean(text)


BOOLEAN = Kind("True or False", _boolean, _read_boolean)
INTEGER = Kind("a whole number", _integer, int)
NUMBER = Kind("a number", _number, _read_number)
SECONDS = Kind("a number of seconds or a timedelta", _seconds, _read_number)
LASTING = Kind("a number of seconds above 0 or a timedelta", _lasting, _read_number)
TEXT = Kind("a text", _text, str)
NAMES = Kind("a list of names", _names, _read_names)
MAPPING = Kind("a dict", _mapping, _read_json)
RATE = Kind("a rate such as '10/m', '3/s' or '100/h'", _rate, _read_rate)
URLS = Kind("a URL or a list of URLs", _urls, str)
ZONE = Kind("a time zone's name", _zone, str)
TLS = Kind("True, False or a dict of TLS options", _tls, _read_tls)
CONCURRENCY = Kind("a whole number, 'auto' or None", _concurrency, _read_concurrency)


def _anything(value: Any) -> Any:
    return value


def _read_anything(text: str) -> Any:
    return _read_json(text) if text.lstrip()[:1] in ("{", "[", '"', "") else text


ANYTHING: Kind[Any] = Kind("any value", _anything, _read_anything)
