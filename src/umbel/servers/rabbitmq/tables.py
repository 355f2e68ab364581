"""AMQP field tables, both ways, without loss.

pika's own codec refuses floats and cuts those that it receives to whole numbers, which would turn a
time limit of 0.5 s into none; it also gives up the connection over a field it does not know, and
the message with that field would come again and again. Here a bad table is a DecodeError of its
message, and the wire's types are those that Celery's library writes: null V, bool t, int I or l,
float d, str S, bytes x, list A, table F, Decimal D, datetime T.
"""

from __future__ import annotations

import calendar
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from umbel.exceptions import DecodeError, EncodeError

#: Bytes of AMQP's short strings: names of fields, queues, exchanges, routing keys, properties.
SHORT = 255
#: Tables and lists inside each other; more is an attack or a mistake.
_DEPTH = 32

_pack_int = struct.Struct(">ci").pack
_pack_long = struct.Struct(">cq").pack
_pack_double = struct.Struct(">cd").pack
_pack_size = struct.Struct(">cI").pack
_unpack_size = struct.Struct(">I").unpack_from


@lru_cache(maxsize=4096)
def short(text: str) -> bytes:
    """Encode a short string. Raises EncodeError when it is too long."""
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > SHORT:
        raise EncodeError(f"expected at most {SHORT} bytes, got {len(data)}: {text[:40]}…")
    return bytes((len(data),)) + data


def encode(table: Mapping[str, Any]) -> bytes:
    """Encode a table with its length. Raises EncodeError."""
    body = b"".join([part for key, value in table.items() for part in (short(key), _value(value))])
    return len(body).to_bytes(4, "big") + body


def _value(value: Any) -> bytes:
    encoder = _ENCODERS.get(type(value))
    if encoder is not None:
        return encoder(value)
    for kind, encoder in _ENCODERS.items():
        if isinstance(value, kind):
            return encoder(value)
    raise EncodeError(f"expected a header that AMQP can carry, got {value!r:.80}")


def _int(value: int) -> bytes:
    try:
        return (
            _pack_int(b"I", value)
            if -0x8000_0000 <= value < 0x8000_0000
            else _pack_long(b"l", value)
        )
    except struct.error as error:
        raise EncodeError(f"expected a header of at most 64 bits, got {value}") from error


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return _pack_size(b"S", len(data)) + data


def _list(value: Any) -> bytes:
    body = b"".join([_value(each) for each in value])
    return _pack_size(b"A", len(body)) + body


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent < -SHORT:
        raise EncodeError(f"expected a finite number, got {value}")
    places = max(-exponent, 0)
    number = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    try:
        return b"D" + struct.pack(">Bi", places, -number if sign else number)
    except struct.error as error:
        raise EncodeError(f"expected a decimal of at most 32 bits, got {value}") from error


#: bool before int, which it is too.
_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    str: _text,
    bool: lambda value: b"t\x01" if value else b"t\x00",
    int: _int,
    type(None): lambda _: b"V",
    float: lambda value: _pack_double(b"d", value),
    list: _list,
    dict: lambda value: b"F" + encode(value),
    tuple: _list,
    bytes: lambda value: _pack_size(b"x", len(value)) + value,
    Decimal: _decimal,
    datetime: lambda value: b"T" + calendar.timegm(value.utctimetuple()).to_bytes(8, "big"),
    Mapping: lambda value: b"F" + encode(value),
}


def decode(data: bytes, offset: int = 0) -> tuple[dict[str, Any], int]:
    """Return the table that begins at ``offset``, and where it ends. Raises DecodeError."""
    try:
        return _table(data, offset, _DEPTH)
    except (struct.error, IndexError, ValueError, KeyError, OverflowError, OSError) as error:
        raise DecodeError(f"the message's headers are no AMQP table: {error!r}") from error


def short_at(data: bytes, offset: int) -> tuple[str, int]:
    """Return the short string at ``offset``, and where it ends."""
    end = offset + 1 + data[offset]
    if end > len(data):
        raise IndexError("the string is longer than its frame")
    return data[offset + 1 : end].decode("utf-8", "surrogateescape"), end


def _table(data: bytes, offset: int, depth: int) -> tuple[dict[str, Any], int]:
    start = offset + 4
    end = _end(data, offset)
    table: dict[str, Any] = {}
    offset = start
    while offset < end:
        key, offset = short_at(data, offset)
        table[key], offset = _value_at(data, offset, depth)
    return table, end


def _end(data: bytes, offset: int) -> int:
    """Return where the long string, list or table at ``offset`` ends."""
    end: int = offset + 4 + _unpack_size(data, offset)[0]
    if end > len(data):
        raise IndexError("a value is longer than its frame")
    return end


def _value_at(data: bytes, offset: int, depth: int) -> tuple[Any, int]:
    kind = data[offset]
    offset += 1
    if kind == _S:
        end = _end(data, offset)
        return data[offset + 4 : end].decode("utf-8", "surrogateescape"), end
    if kind == _V:
        return None, offset
    number = _NUMBERS.get(kind)
    if number is not None:
        return number.unpack_from(data, offset)[0], offset + number.size
    if depth == 0:
        raise ValueError(f"more than {_DEPTH} tables inside each other")
    return _RARE[kind](data, offset, depth - 1)


def _list_at(data: bytes, offset: int, depth: int) -> tuple[Any, int]:
    end = _end(data, offset)
    offset += 4
    values: list[Any] = []
    while offset < end:
        value, offset = _value_at(data, offset, depth)
        values.append(value)
    return values, end


def _decimal_at(data: bytes, offset: int, _depth: int) -> tuple[Any, int]:
    places, number = struct.unpack_from(">Bi", data, offset)
    return Decimal(number).scaleb(-places), offset + 5


def _time_at(data: bytes, offset: int, _depth: int) -> tuple[Any, int]:
    (seconds,) = struct.unpack_from(">Q", data, offset)
    return datetime.fromtimestamp(seconds, UTC), offset + 8


def _bytes_at(data: bytes, offset: int, _depth: int) -> tuple[Any, int]:
    end = _end(data, offset)
    return data[offset + 4 : end], end


_S, _V = b"SV"
#: RabbitMQ reads l and L alike, as signed.
_NUMBERS = {
    ord(kind): struct.Struct(f">{form}")
    for kind, form in zip("tbBUsuIilLfd", "?bBhhHiIqqfd", strict=True)
}
_RARE: Mapping[int, Callable[[bytes, int, int], tuple[Any, int]]] = {
    ord("F"): _table,
    ord("A"): _list_at,
    ord("D"): _decimal_at,
    ord("T"): _time_at,
    ord("x"): _bytes_at,
}
