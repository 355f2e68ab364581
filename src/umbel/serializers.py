"""Values to bytes and back: json, pickle, yaml and msgpack; compression; what a receiver accepts.

The json dialect is kombu's: a value that JSON lacks travels as an object of exactly two keys,
``{"__type__": tag, "__value__": text}``. It goes through the standard library's C encoder, which
alone keeps what Python users rely on (big integers, NaN, integer keys, lone surrogates); encoder
and scanner are built once, so a call is one Python frame.

Whatever bytes arrive, ``loads`` returns a value or raises DecodeError; ``decompress`` stops at a
limit. Packages that are not in the standard library are imported when first asked for.
"""

from __future__ import annotations

import binascii
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache
from importlib import import_module
from json import encoder as json_encoder
from json.decoder import JSONDecoder
from typing import Any, ParamSpec, TypeVar

from umbel.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    SecurityWarning,
)
from umbel.spelling import suggestion

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes a compressed body may grow to. A message a thousand times smaller could fill the memory.
DECOMPRESSED_LIMIT = 256 * 1024 * 1024

#: Bytes of dictionary that a decompressor may take; the strongest presets need half of it.
_DICTIONARY_LIMIT = 128 * 1024 * 1024

JSON_TYPE = "application/json"
#: Name of a serializer -> content type, content encoding, package to install ("" = none).
CONTENT_TYPES: Mapping[str, tuple[str, str, str]] = {
    "json": (JSON_TYPE, "utf-8", ""),
    "pickle": ("application/x-python-serialize", "binary", ""),
    "yaml": ("application/x-yaml", "utf-8", "yaml"),
    "msgpack": ("application/x-msgpack", "binary", "msgpack"),
}
#: Levels of containers in a JSON text that may be needed; 20,000 still fit into 8 MB of C stack.
DEEPEST = 5000
#: The limit is the interpreter's, not a thread's.
_changing_the_limit = threading.Lock()
_NAMES: Mapping[str, str] = {row[0]: name for name, row in CONTENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Serializer:
    """A way to turn a value into bytes and back. Raises EncodeError and DecodeError, cause kept."""

    name: str
    content_type: str
    content_encoding: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def get(name: str) -> Serializer:
    """Return the serializer of this name or content type.

    Raises ImproperlyConfigured when it is unknown or its package is missing.
    """
    known = _NAMES.get(name, name)
    if known not in CONTENT_TYPES:
        raise ImproperlyConfigured(_unknown("serializer", name, CONTENT_TYPES))
    return _built(known)


@cache
def _built(name: str) -> Serializer:
    content_type, encoding, extra = CONTENT_TYPES[name]
    try:
        dumps, loads = _CODECS[name]()
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f"the serializer {name!r} needs a missing package: pip install 'umbel[{extra}]'"
        ) from error
    return Serializer(name, content_type, encoding, dumps, loads)


def accepted(names: Iterable[str]) -> frozenset[str]:
    """Resolve names and content types (the setting ``accept_content``) to content types."""
    types: set[str] = set()
    for name in names:
        if name in CONTENT_TYPES:
            types.add(CONTENT_TYPES[name][0])
        elif "/" in name:
            types.add(name)
        else:
            raise ImproperlyConfigured(_unknown("serializer", name, CONTENT_TYPES))
    return frozenset(types)


def warn_of_pickle(named: str, names: Iterable[str | None]) -> None:
    """Warn, once, if pickle is among the names that ``named`` (a setting, an option) gives."""
    if any(name == "pickle" or name == CONTENT_TYPES["pickle"][0] for name in names):
        warnings.warn(
            f"{named} names pickle: whoever can write to the broker or the result store can run "
            "any code in the programs that read it; json, yaml and msgpack cannot",
            SecurityWarning,
            stacklevel=2,
        )


def for_content_type(content_type: str, accept: frozenset[str]) -> Serializer:
    """Return the serializer that reads this content type.

    Raises ContentDisallowed when it is not in ``accept``, DecodeError when nobody here reads it.
    """
    if content_type not in accept:
        allowed = ", ".join(sorted(accept)) or "none"
        raise ContentDisallowed(
            f"content type {content_type!r:.80} is not accepted (accepted: {allowed}); "
            "add it to accept_content if its senders are trusted"
        )
    if content_type not in _NAMES:
        raise DecodeError(f"no serializer reads content type {content_type!r}")
    try:
        return get(content_type)
    except ImproperlyConfigured as error:
        raise DecodeError(str(error)) from error


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    hint = suggestion(name, names)
    return f"unknown {kind}: expected one of {', '.join(names)}, got {name!r}{hint}"


# --- json -----------------------------------------------------------------------------------

_Encode = Callable[[Any], Any]

#: Types tagged by their exact class: the usual case, one look-up.
_tagged: dict[type, tuple[str, _Encode]] = {}
#: All registered types in order of registration, for instances of subclasses. None = untagged.
_registered: dict[type, tuple[str | None, _Encode]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {
    "bytes": str.encode,
    "base64": binascii.a2b_base64,
}


def register_type(
    cls: type[T],
    tag: str | None,
    encode: Callable[[T], Any],
    decode: Callable[[Any], T] | None = None,
) -> None:
    """Teach json a type: ``encode`` gives what travels under ``tag``, ``decode`` takes it back.

    With ``tag`` None the encoded value travels as it is and stays so. Call it in every program that
    sends or receives such values, before it does; a receiver refuses a tag it does not know.
    """
    _registered[cls] = (tag, encode)
    _tagged.pop(cls, None)
    if tag is not None and decode is not None:
        _decoders[tag] = decode


def _register_standard_types() -> None:
    # datetime stands before date, because it is a date too.
    register_type(datetime, "datetime", datetime.isoformat, datetime.fromisoformat)
    register_type(date, "date", date.isoformat, lambda text: datetime.fromisoformat(text).date())
    register_type(time, "time", time.isoformat, time.fromisoformat)
    for cls, (tag, encode) in _registered.items():
        assert tag is not None
        _tagged[cls] = (tag, encode)
    _decoders["decimal"] = _decimal
    _decoders["uuid"] = _uuid


def _decimal(text: Any) -> Any:
    return _imported("decimal", "Decimal")(text)


def _uuid(fields: Any) -> Any:
    return _imported("uuid", "UUID")(**fields)


#: Types of modules that few programs load: (module, class) -> tag and encoder.
_LATE: Mapping[tuple[str, str], tuple[str, _Encode]] = {
    ("decimal", "Decimal"): ("decimal", str),
    ("uuid", "UUID"): ("uuid", lambda value: {"hex": value.hex}),
}


@cache
def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _register_late_types() -> None:
    """Register the types of modules that are loaded by now: only then there are such values."""
    for (module, name), row in _LATE.items():
        if module in sys.modules:
            cls = _imported(module, name)
            if cls not in _registered:  # an application may have a form of its own
                _tagged[cls] = _registered[cls] = row


_register_standard_types()


def _reduce(value: Any) -> Any:
    """Return something JSON has in place of ``value``; the encoder calls this for what it lacks."""
    tagged = _tagged.get(type(value))
    if tagged is not None:
        return {"__type__": tagged[0], "__value__": tagged[1](value)}
    if type(value) is bytes:
        return _reduce_bytes(value)
    own = getattr(value, "__json__", None)
    if own is not None:
        return own()
    return _reduce_registered(value)


def _reduce_registered(value: Any) -> Any:
    _register_late_types()
    # A copy: another thread may register a type meanwhile.
    for cls, (tag, encode) in list(_registered.items()):
        if isinstance(value, cls):
            encoded = encode(value)
            return encoded if tag is None else {"__type__": tag, "__value__": encoded}
    if isinstance(value, bytes):
        return _reduce_bytes(value)
    lazy = sys.modules.get("django.utils.functional")
    if lazy is not None and isinstance(value, lazy.Promise):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")


def _reduce_bytes(value: bytes) -> dict[str, str]:
    try:
        return {"__type__": "bytes", "__value__": value.decode()}
    except UnicodeDecodeError:
        text = binascii.b2a_base64(value, newline=False).decode("ascii")
        return {"__type__": "base64", "__value__": text}


def _unwrap(fields: dict[str, Any]) -> Any:
    """Undo ``_reduce``: the scanner calls this for each object of a text that holds a tag."""
    if len(fields) != 2 or "__type__" not in fields or "__value__" not in fields:
        return fields
    tag = fields["__type__"]
    decode = _decoders.get(tag) if isinstance(tag, str) else None
    if decode is None:
        raise ValueError(f"unknown type tag {tag!r:.80}")
    return decode(fields["__value__"])


def _make_chunks() -> Callable[[Any, int], Iterable[str]]:
    """Build the encoder.

    It has no table of open containers, which would be shared by threads; a value that contains
    itself ends in RecursionError all the same.
    """
    c_make_encoder: Any = getattr(json_encoder, "c_make_encoder", None)
    if c_make_encoder is None:  # an interpreter without the C module
        slow = json_encoder.JSONEncoder(check_circular=False, default=_reduce)
        return lambda value, _: slow.iterencode(value)
    chunks: Callable[[Any, int], Iterable[str]] = c_make_encoder(
        None, _reduce, json_string, None, ": ", ", ", False, False, True
    )
    return chunks


#: Text -> its JSON literal.
json_string: Callable[[str], str] = json_encoder.encode_basestring_ascii
#: (value, 0) -> pieces of its JSON text, to be joined; raises whatever the value's hooks raise.
json_chunks: Callable[[Any, int], Iterable[str]] = _make_chunks()
#: (text, start) -> value and where it ends. StopIteration where no value begins.
_Scan = Callable[[str, int], tuple[Any, int]]
_scan_plain: _Scan = vars(JSONDecoder())["scan_once"]
_scan_tagged: _Scan = vars(JSONDecoder(object_hook=_unwrap))["scan_once"]


def json_text(value: Any) -> str:
    """Return the value's JSON text (ASCII). Raises EncodeError."""
    try:
        return "".join(json_chunks(value, 0))
    except RecursionError:
        return _deep_text(value)
    except Exception as error:
        raise _refused(value, error) from error


def json_dumps(value: Any) -> bytes:
    """Return the value's JSON text as bytes. Raises EncodeError."""
    try:
        return "".join(json_chunks(value, 0)).encode("ascii")
    except RecursionError:
        return _deep_text(value).encode("ascii")
    except Exception as error:
        raise _refused(value, error) from error


def json_loads(data: bytes) -> Any:
    """Return the value of JSON bytes. Raises DecodeError for anything else."""
    try:
        text = data.decode()
        scan = _scan_tagged if b'"__type__"' in data else _scan_plain
        try:
            value, end = scan(text, 0)
        except RecursionError:
            value, end = _with_room(scan, text, 0)
    except StopIteration:
        return _loads_padded(data)
    except Exception as error:
        raise _undecodable("json", error) from error
    if end != len(text) and text[end:].strip(" \t\n\r"):
        raise DecodeError(f"not json: more data behind character {end}")
    return value


def _loads_padded(data: bytes) -> Any:
    """Read a text that begins with white space, a byte order mark, or rubbish."""
    stripped = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\n\r")
    if len(stripped) == len(data):
        raise DecodeError("not json: no value at the beginning" if data else "not json: empty")
    return json_loads(stripped)


def _deep_text(value: Any) -> str:
    try:
        return "".join(_with_room(json_chunks, value, 0))
    except Exception as error:
        raise _refused(value, error) from error


def _with_room(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do it with room for DEEPEST levels.

    A level of a workflow takes up to six of JSON: 200 do not fit into the usual thousand. Only some
    interpreters count C code among these; its stack is used little.
    """
    with _changing_the_limit:
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, DEEPEST))
        try:
            return work(*args, **kwargs)
        finally:
            sys.setrecursionlimit(before)


def _refused(value: Any, error: Exception) -> EncodeError:
    if isinstance(error, RecursionError):
        return EncodeError("the value is nested too deeply, or contains itself")
    return EncodeError(f"cannot encode {type(value).__name__}: {type(error).__name__}: {error}")


def _undecodable(name: str, error: Exception) -> DecodeError:
    if isinstance(error, RecursionError):
        return DecodeError(f"not {name}: nested too deeply")
    return DecodeError(f"not {name}: {type(error).__name__}: {error!s:.200}")


# --- the others -----------------------------------------------------------------------------

_Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def _json_codec() -> _Codec:
    return json_dumps, json_loads


def _pickle_codec() -> _Codec:
    pickle = import_module("pickle")
    # 4: what every Python a Celery 5 peer runs on can read.
    return _guarded("pickle", lambda value: pickle.dumps(value, protocol=4), pickle.loads)


def _yaml_codec() -> _Codec:
    yaml = import_module("yaml")
    # The pure Python loader: a deeply nested text ends in RecursionError, not in a broken C stack.
    return _guarded("yaml", lambda value: yaml.safe_dump(value).encode(), yaml.safe_load)


def _msgpack_codec() -> _Codec:
    msgpack = import_module("msgpack")
    return _guarded(
        "msgpack", msgpack.packb, lambda data: msgpack.unpackb(data, strict_map_key=False)
    )


_CODECS: Mapping[str, Callable[[], _Codec]] = {
    "json": _json_codec,
    "pickle": _pickle_codec,
    "yaml": _yaml_codec,
    "msgpack": _msgpack_codec,
}


def _guarded(name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> _Codec:
    def dumps(value: Any) -> bytes:
        try:
            return encode(value)
        except Exception as error:
            raise _refused(value, error) from error

    def loads(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception as error:
            raise _undecodable(name, error) from error

    return dumps, loads


# --- compression ----------------------------------------------------------------------------

#: Name -> header value. gzip is a zlib stream on Celery's wire, whatever its name says.
COMPRESSIONS: Mapping[str, str] = {
    "zlib": "application/x-gzip",
    "gzip": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}


def compression_type(name: str) -> str:
    """Return the header value of a compression; ImproperlyConfigured when it is unknown."""
    header = COMPRESSIONS.get(name, name)
    if header not in _COMPRESSORS:
        raise ImproperlyConfigured(_unknown("compression", name, COMPRESSIONS))
    return header


def compress(name: str, data: bytes) -> tuple[bytes, str]:
    """Return the compressed data and the value of its ``compression`` header."""
    header = compression_type(name)
    return _COMPRESSORS[header](data), header


def decompress(header: str, data: bytes, limit: int = DECOMPRESSED_LIMIT) -> bytes:
    """Undo ``compress``. Raises DecodeError for damaged data and for more than ``limit`` bytes."""
    opener = None
    if isinstance(header, str):
        opener = _DECOMPRESSORS.get(COMPRESSIONS.get(header, header))
    if opener is None:
        raise DecodeError(f"unknown compression {header!r:.80}")
    try:
        plain, finished = opener(data, limit + 1)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"damaged {header} data: {error}") from error
    if len(plain) > limit:
        raise DecodeError(f"the {header} data grow beyond {limit} bytes")
    if not finished:
        raise DecodeError(f"the {header} data are cut short")
    return plain


def _compress_bz2(data: bytes) -> bytes:
    return bytes(import_module("bz2").compress(data))


def _compress_lzma(data: bytes) -> bytes:
    return bytes(import_module("lzma").compress(data))


def _compress_zstd(data: bytes) -> bytes:
    return bytes(_zstandard().ZstdCompressor().compress(data))


def _decompress_zlib(data: bytes, limit: int) -> tuple[bytes, bool]:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: with either header, zlib's or gzip's
    plain = stream.decompress(data, limit)
    return plain, stream.eof


def _decompress_bz2(data: bytes, limit: int) -> tuple[bytes, bool]:
    stream = import_module("bz2").BZ2Decompressor()
    plain = stream.decompress(data, limit)
    return plain, stream.eof


def _decompress_lzma(data: bytes, limit: int) -> tuple[bytes, bool]:
    stream = import_module("lzma").LZMADecompressor(memlimit=_DICTIONARY_LIMIT)
    plain = stream.decompress(data, limit)
    return plain, stream.eof


def _decompress_zstd(data: bytes, limit: int) -> tuple[bytes, bool]:
    zstandard = _zstandard()
    # The library allocates what the frame says it holds: believe it up to the limit only.
    size = zstandard.get_frame_parameters(data).content_size
    if size != zstandard.CONTENTSIZE_UNKNOWN and size >= limit:
        raise DecodeError(f"the application/zstd data grow beyond {limit - 1} bytes")
    opener = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_LIMIT)
    return opener.decompress(data, max_output_size=limit), True


def _zstandard() -> Any:
    try:
        return import_module("zstandard")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            "zstd needs a package that is missing: pip install 'umbel[zstd]'"
        ) from error


_COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": _compress_bz2,
    "application/x-lzma": _compress_lzma,
    "application/zstd": _compress_zstd,
}
_DECOMPRESSORS: Mapping[str, Callable[[bytes, int], tuple[bytes, bool]]] = {
    "application/x-gzip": _decompress_zlib,
    "application/x-bz2": _decompress_bz2,
    "application/x-lzma": _decompress_lzma,
    "application/zstd": _decompress_zstd,
}
