"""Values to bytes and back, and what becomes of bytes that are no values."""

from __future__ import annotations

import bz2
import datetime as dt
import enum
import gzip
import json
import lzma
import pickle
import sys
import threading
import uuid
import zlib
from collections import OrderedDict, UserString
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgpack
import pytest
import yaml
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_values import examples, values
from umbel import serializers
from umbel.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured


class TestJson:
    @examples
    @given(values)
    def test_values_come_back(self, value: Any) -> None:
        assert serializers.json_loads(serializers.json_dumps(value)) == value

    @examples
    @given(values)
    def test_text_is_ascii_and_what_the_standard_library_reads(self, value: Any) -> None:
        data = serializers.json_dumps(value)
        assert data.isascii()
        json.loads(data)

    @examples
    @given(st.binary() | st.text().map(str.encode))
    def test_any_bytes_are_a_value_or_a_decode_error(self, data: bytes) -> None:
        try:
            value = serializers.json_loads(data)
        except DecodeError:
            return
        assert value == json.loads(data) or value != value  # noqa: PLR0124 -- NaN

    @pytest.mark.parametrize(
        ("value", "tag", "text"),
        [
            (dt.datetime(2030, 1, 2, 3, 4, tzinfo=dt.UTC), "datetime", "2030-01-02T03:04:00+00:00"),
            (dt.date(2030, 1, 2), "date", "2030-01-02"),
            (dt.time(3, 4, 5), "time", "03:04:05"),
            (Decimal("1.50"), "decimal", "1.50"),
            (uuid.UUID(int=5), "uuid", {"hex": "0" * 31 + "5"}),
            (b"hi", "bytes", "hi"),
            (b"\xff\xfe", "base64", "//4="),
        ],
    )
    def test_tags(self, value: Any, tag: str, text: Any) -> None:
        plain = json.loads(serializers.json_dumps([value]))
        assert plain == [{"__type__": tag, "__value__": text}]

    def test_instances_of_subclasses_travel_as_their_parents(self) -> None:
        class Moment(dt.datetime):
            pass

        class Colour(enum.IntEnum):
            RED = 1

        class Blob(bytes):
            __slots__ = ()

        class Point(NamedTuple):
            x: int
            y: int

        found = serializers.json_loads(
            serializers.json_dumps(
                [
                    Moment(2030, 1, 2),
                    Colour.RED,
                    Blob(b"x"),
                    Point(1, 2),
                    OrderedDict(a=1),
                    (1, (2,)),
                ]
            )
        )
        expected = [dt.datetime(2030, 1, 2), 1, b"x", [1, 2], {"a": 1}, [1, [2]]]  # noqa: DTZ001
        assert found == expected

    def test_an_object_may_say_how_it_travels(self) -> None:
        money = SimpleNamespace(__json__=lambda: {"amount": Decimal(2)})
        assert serializers.json_loads(serializers.json_dumps(money)) == {"amount": Decimal(2)}

    def test_lazy_texts_of_django_travel_as_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = SimpleNamespace(Promise=UserString)
        monkeypatch.setitem(sys.modules, "django.utils.functional", module)
        assert serializers.json_dumps(UserString("shown")) == b'"shown"'

    def test_numbers_keep_their_value(self) -> None:
        assert serializers.json_dumps([2**70, float("inf"), float("nan")]) == (
            b"[1180591620717411303424, Infinity, NaN]"
        )

    def test_a_dict_of_three_keys_is_no_tag(self) -> None:
        value = {"__type__": "date", "__value__": "x", "more": 1}
        assert serializers.json_loads(serializers.json_dumps(value)) == value

    @pytest.mark.parametrize(
        "text",
        [
            '{"__type__": "no-such", "__value__": 1}',
            '{"__type__": ["date"], "__value__": 1}',
            '{"__type__": "date", "__value__": 5}',
            '{"__type__": "date", "__value__": "never"}',
            '{"__type__": "uuid", "__value__": {"evil": 1}}',
            '{"__type__": "uuid", "__value__": 7}',
            '{"__type__": "base64", "__value__": "\\u00ff"}',
            '{"__type__": "bytes", "__value__": "\\ud800"}',
            '{"__type__": "decimal", "__value__": "x"}',
            '{"__type__": "decimal", "__value__": [1, 2]}',
            "",
            " ",
            "[1",
            "[1] 2",
            "nul",
            "[" * 100_000,
            '{"a":' * 100_000,
            "9" * 10_000,
            '"\ud800"',
        ],
    )
    def test_what_is_no_json_of_ours_is_refused(self, text: str) -> None:
        with pytest.raises(DecodeError):
            serializers.json_loads(text.encode("utf-8", "surrogatepass"))

    def test_white_space_and_byte_order_marks_are_skipped(self) -> None:
        assert serializers.json_loads(b" \r\n[1]\t ") == [1]
        assert serializers.json_loads(b"\xef\xbb\xbf [1]") == [1]

    @pytest.mark.parametrize("value", [{1, 2}, object(), {(1, 2): 3}, [10**5000], bytearray(b"x")])
    def test_what_has_no_form_is_refused(self, value: Any) -> None:
        for encode in (serializers.json_dumps, serializers.json_text):
            with pytest.raises(EncodeError) as caught:
                encode([value])
            assert caught.value.__cause__ is not None

    def test_a_value_that_contains_itself_is_refused_and_then_forgotten(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(EncodeError, match="contains itself"):
            serializers.json_dumps(loop)
        loop.clear()
        assert serializers.json_dumps([loop, loop]) == b"[[], []]"

    def test_whatever_a_hook_raises_is_an_encode_error(self) -> None:
        class Broken:
            def __json__(self) -> Any:
                raise LookupError("no form today")

        with pytest.raises(EncodeError, match="no form today"):
            serializers.json_dumps(Broken())

    def test_threads_share_the_encoder(self) -> None:
        shared = [[n, {"a": dt.date(2030, 1, 2)}] for n in range(200)]
        expected = serializers.json_dumps(shared)
        found: list[bytes] = []

        def encode() -> None:
            found.extend(serializers.json_dumps(shared) for _ in range(20))

        threads = [threading.Thread(target=encode) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {expected}
        assert len(found) == 80

    def test_registered_types(self) -> None:
        class Point:
            def __init__(self, x: int) -> None:
                self.x = x

        class Label:
            pass

        serializers.register_type(Point, "test-point", lambda point: point.x, Point)
        serializers.register_type(Label, None, lambda _: "label")
        point, label = serializers.json_loads(serializers.json_dumps([Point(7), Label()]))
        assert isinstance(point, Point)
        assert (point.x, label) == (7, "label")

    def test_an_application_may_replace_the_form_of_a_type(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for table in ("_tagged", "_registered", "_decoders"):
            monkeypatch.setattr(serializers, table, dict(getattr(serializers, table)))
        serializers.register_type(Decimal, "test-money", str, lambda text: Decimal(text) * 2)
        serializers.register_type(dt.date, None, lambda day: day.year)
        data = serializers.json_dumps([Decimal(3), dt.date(2030, 1, 2)])
        assert serializers.json_loads(data) == [Decimal(6), 2030]


class TestOthers:
    @pytest.mark.parametrize("name", ["json", "pickle", "yaml", "msgpack"])
    def test_each_reads_what_it_wrote(self, name: str) -> None:
        serializer = serializers.get(name)
        value = {"a": [1, 2.5, None, True, "\u00e9"], "b": {}}
        assert serializer.loads(serializer.dumps(value)) == value
        assert serializers.get(serializer.content_type) is serializer

    @pytest.mark.parametrize(
        ("name", "content_type", "encoding"),
        [
            ("json", "application/json", "utf-8"),
            ("pickle", "application/x-python-serialize", "binary"),
            ("yaml", "application/x-yaml", "utf-8"),
            ("msgpack", "application/x-msgpack", "binary"),
        ],
    )
    def test_content_types_are_those_of_celery(
        self, name: str, content_type: str, encoding: str
    ) -> None:
        serializer = serializers.get(name)
        assert (serializer.content_type, serializer.content_encoding) == (content_type, encoding)

    @pytest.mark.parametrize("name", ["json", "pickle", "yaml", "msgpack"])
    @examples
    @given(data=st.binary(max_size=60))
    def test_any_bytes_are_a_value_or_a_decode_error(self, name: str, data: bytes) -> None:
        try:
            serializers.get(name).loads(data)
        except DecodeError as error:
            assert error.__cause__ is not None or name == "json"  # noqa: PT017

    @pytest.mark.parametrize("name", ["pickle", "yaml", "msgpack"])
    def test_what_has_no_form_is_refused(self, name: str) -> None:
        with pytest.raises(EncodeError):
            serializers.get(name).dumps(threading.Lock())

    def test_json_nests_as_deep_as_workflows_do(self) -> None:
        value: Any = 1
        for _ in range(1200):
            value = [value]
        before = sys.getrecursionlimit()
        text = serializers.json_dumps(value)
        assert text == b"[" * 1200 + b"1" + b"]" * 1200
        assert serializers.json_dumps(serializers.json_loads(text)) == text
        assert sys.getrecursionlimit() == before

    def test_deep_nesting_is_refused(self) -> None:
        for name, data in (
            ("yaml", b"- " * 5000),
            ("msgpack", b"\x91" * 100_000),
            ("pickle", b"\x80\x04" + b"(" * 10_000),
        ):
            with pytest.raises(DecodeError):
                serializers.get(name).loads(data)

    def test_they_are_the_libraries_own_formats(self) -> None:
        value = {"a": [1, "b"]}
        assert pickle.loads(serializers.get("pickle").dumps(value)) == value
        assert yaml.safe_load(serializers.get("yaml").dumps(value)) == value
        assert msgpack.unpackb(serializers.get("msgpack").dumps(value)) == value

    def test_yaml_makes_no_objects(self) -> None:
        with pytest.raises(DecodeError):
            serializers.get("yaml").loads(b"!!python/object/apply:os.getcwd []")

    def test_an_unknown_name_suggests_the_right_one(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="did you mean 'msgpack'"):
            serializers.get("msgpak")

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "msgpack", None)
        serializers._built.cache_clear()
        with pytest.raises(ImproperlyConfigured, match=r"pip install 'umbel\[msgpack\]'"):
            serializers.get("msgpack")
        with pytest.raises(DecodeError, match="pip install"):
            serializers.for_content_type("application/x-msgpack", serializers.accepted(["msgpack"]))


class TestAccepting:
    def test_names_and_types_are_accepted(self) -> None:
        accept = serializers.accepted(["json", "application/x-msgpack", "application/own"])
        assert accept == {"application/json", "application/x-msgpack", "application/own"}

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="did you mean 'json'"):
            serializers.accepted(["jsn"])

    def test_only_accepted_types_are_read(self) -> None:
        accept = serializers.accepted(["json", "application/own"])
        assert serializers.for_content_type("application/json", accept).name == "json"
        with pytest.raises(ContentDisallowed, match="accept_content"):
            serializers.for_content_type("application/x-python-serialize", accept)
        with pytest.raises(DecodeError, match="no serializer"):
            serializers.for_content_type("application/own", accept)

    def test_a_missing_type_is_not_accepted(self) -> None:
        with pytest.raises(ContentDisallowed):
            serializers.for_content_type("", serializers.accepted(["json"]))


class TestCompression:
    NAMES = ("zlib", "gzip", "bzip2", "lzma", "zstd")

    @pytest.mark.parametrize("name", NAMES)
    @examples
    @given(data=st.binary())
    def test_data_come_back(self, name: str, data: bytes) -> None:
        compressed, header = serializers.compress(name, data)
        assert serializers.decompress(header, compressed) == data
        assert serializers.decompress(name, compressed) == data

    def test_headers_and_streams_are_those_of_celery(self) -> None:
        for name, header, opened in (
            ("zlib", "application/x-gzip", zlib.decompress),
            ("gzip", "application/x-gzip", zlib.decompress),
            ("bzip2", "application/x-bz2", bz2.decompress),
            ("lzma", "application/x-lzma", lzma.decompress),
            ("zstd", "application/zstd", zstandard.decompress),
        ):
            compressed, found = serializers.compress(name, b"data")
            assert (found, opened(compressed)) == (header, b"data")

    def test_true_gzip_is_read_too(self) -> None:
        assert serializers.decompress("application/x-gzip", gzip.compress(b"data")) == b"data"

    @pytest.mark.parametrize("name", NAMES)
    def test_a_bomb_is_refused(self, name: str) -> None:
        compressed, header = serializers.compress(name, bytes(1_000_000))
        assert len(serializers.decompress(header, compressed, limit=1_000_000)) == 1_000_000
        with pytest.raises(DecodeError):
            serializers.decompress(header, compressed, limit=999_999)

    def test_a_frame_that_hides_or_overstates_its_size_is_refused(self) -> None:
        hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1_000_000))
        with pytest.raises(DecodeError):
            serializers.decompress("zstd", hidden, limit=1000)
        assert serializers.decompress("zstd", hidden, limit=1_000_000) == bytes(1_000_000)
        overstated = b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + b"\x01\x00\x00"
        with pytest.raises(DecodeError):
            serializers.decompress("zstd", overstated)

    @pytest.mark.parametrize("name", NAMES)
    def test_damaged_data_are_refused(self, name: str) -> None:
        compressed, header = serializers.compress(name, b"some data" * 100)
        for damaged in (b"", b"rubbish", compressed[:-3], compressed[: len(compressed) // 2]):
            with pytest.raises(DecodeError):
                serializers.decompress(header, damaged)

    @pytest.mark.parametrize("header", ["application/x-none", "", 5, None, []])
    def test_an_unknown_header_is_refused(self, header: Any) -> None:
        with pytest.raises(DecodeError, match="unknown compression"):
            serializers.decompress(header, b"data")

    def test_an_unknown_name_suggests_the_right_one(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="did you mean 'zstd'"):
            serializers.compress("zst", b"")

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(ImproperlyConfigured, match=r"pip install 'umbel\[zstd\]'"):
            serializers.compress("zstd", b"")
        with pytest.raises(DecodeError, match="pip install"):
            serializers.decompress("zstd", b"")
