"""``repr`` with bounds: of length, of depth and of cost. For logs, events and monitors only."""

from __future__ import annotations

from typing import Any

#: Levels of containers that are shown.
MAX_DEPTH = 6
#: Bits of an integer above which its digits are not worth their quadratic cost.
MAX_BITS = 4096
#: Items above which a container is shown by us even if its class shows itself.
MAX_OWN = 1000

#: Plain container -> its brackets. A subclass that does not show itself is shown as its parent.
_CONTAINERS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
}
_TEXTS = (str, bytes, bytearray)


def bounded_repr(value: Any, maxsize: int = 1024) -> str:
    """Return at most ``maxsize`` characters of ``repr(value)``; never raises, never reads it all.

    A cut is marked by "..." at the end. Objects of other classes are asked for their repr, whatever
    that costs; one that fails is shown by its type.
    """
    writer = _Writer(maxsize)
    try:
        writer.write(value, 0)
    except _FullError:
        pass
    except Exception:  # noqa: BLE001 -- containers of users raise anything while they are read
        writer.pieces.append("...")
    text = "".join(writer.pieces)
    if not text.isascii():  # lone surrogates cannot travel
        text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= maxsize else text[: max(maxsize - 3, 0)] + "..."


class _FullError(Exception):
    """The text is long enough."""


class _Writer:
    """Collects the pieces of one text until its room is used up."""

    __slots__ = ("pieces", "room")

    def __init__(self, room: int) -> None:
        self.pieces: list[str] = []
        self.room = room

    def put(self, piece: str) -> None:
        self.pieces.append(piece)
        self.room -= len(piece)
        if self.room < 0:
            raise _FullError

    def write(self, value: Any, depth: int) -> None:
        kind = _kind(value)
        if kind is None:
            self.put(_safe(value))
        elif kind in _TEXTS:
            self.put(repr(kind(value[: self.room + 1])))
        elif kind is int:
            self.put(repr(value) if value.bit_length() <= MAX_BITS else _shown(value))
        else:
            self.write_container(value, kind, depth)

    def write_container(self, value: Any, kind: type, depth: int) -> None:
        if not value:
            self.put(repr(kind()))
            return
        left, right = _CONTAINERS[kind]
        self.put(left)
        if depth == MAX_DEPTH:
            self.put("...")
        elif kind is dict:
            self.write_pairs(value, depth)
        else:
            self.write_items(value, depth)
            if kind is tuple and len(value) == 1:
                self.put(",")
        self.put(right)

    def write_items(self, value: Any, depth: int) -> None:
        separator = ""
        for item in value:
            self.put(separator)
            self.write(item, depth + 1)
            separator = ", "

    def write_pairs(self, value: dict[Any, Any], depth: int) -> None:
        separator = ""
        for key, item in value.items():
            self.put(separator)
            self.write(key, depth + 1)
            self.put(": ")
            self.write(item, depth + 1)
            separator = ", "


def _kind(value: Any) -> Any:
    """Return the built-in class whose repr the value has, and we can bound; None = its own."""
    cls = type(value)
    if cls is int or cls in _TEXTS or cls in _CONTAINERS:
        return cls
    for parent in (*_CONTAINERS, *_TEXTS, int):
        if isinstance(value, parent):
            shows_itself = cls.__repr__ is not parent.__repr__
            return None if shows_itself and not _is_large(value) else parent
    return None


def _is_large(value: Any) -> bool:
    return (value.bit_length() if isinstance(value, int) else len(value)) > MAX_OWN


def _safe(value: Any) -> str:
    try:
        return str.__str__(repr(value))
    except Exception:  # noqa: BLE001 -- a user's __repr__ raises anything
        return _shown(value)


def _shown(value: Any) -> str:
    cls = type(value)
    try:
        name = f"{cls.__module__}.{cls.__qualname__}"
    except Exception:  # noqa: BLE001 -- so does a metaclass
        name = "unnamed"
    return f"<{name} object>"
