"""``repr`` with bounds: of length, of depth and of cost. For logs, events and monitors only."""

from __future__ import annotations

from typing import Any

#: Levels of containers that are shown; Celery's default shows as many.
MAX_DEPTH = 6
#: Bits of an integer above which its digits are not worth their quadratic cost.
MAX_BITS = 4096
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


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
    except RecursionError:
        writer.pieces.append("...")
    text = "".join(writer.pieces)
    if not text.isascii():  # lone surrogates cannot travel
        text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= maxsize else text[: max(maxsize - 3, 0)] + "..."


class _FullError(Exception):
    """The text is long enough."""


class _Writer:
    """Collects the pieces of one text until its room is used up."""

    def __init__(self, room: int) -> None:
        self.pieces: list[str] = []
        self.room = room

    def put(self, piece: str) -> None:
        self.pieces.append(piece)
        self.room -= len(piece)
        if self.room < 0:
            raise _FullError

    def write(self, value: Any, depth: int) -> None:
        cls = type(value)
        if cls is str or cls is bytes:
            self.put(repr(value[: self.room + 1]))
        elif cls is int:
            self.put(repr(value) if value.bit_length() <= MAX_BITS else _shown(value))
        elif cls is dict:
            self.write_dict(value, depth)
        elif cls in _BRACKETS:
            self.write_items(value, depth)
        else:
            self.put(_safe(value))

    def write_items(self, value: Any, depth: int) -> None:
        if not value and type(value) in (set, frozenset):
            self.put(repr(value))
            return
        left, right = _BRACKETS[type(value)]
        self.put(left)
        if depth == MAX_DEPTH and value:
            self.put("...")
        else:
            for index, item in enumerate(value):
                if index:
                    self.put(", ")
                self.write(item, depth + 1)
            if type(value) is tuple and len(value) == 1:
                self.put(",")
        self.put(right)

    def write_dict(self, value: dict[Any, Any], depth: int) -> None:
        self.put("{")
        if depth == MAX_DEPTH and value:
            self.put("...")
        else:
            for index, (key, item) in enumerate(value.items()):
                if index:
                    self.put(", ")
                self.write(key, depth + 1)
                self.put(": ")
                self.write(item, depth + 1)
        self.put("}")


def _safe(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 -- a user's __repr__ raises anything
        return _shown(value)
    return text if type(text) is str else str.__str__(text)


def _shown(value: Any) -> str:
    cls = type(value)
    return f"<{cls.__module__}.{cls.__qualname__} object>"
