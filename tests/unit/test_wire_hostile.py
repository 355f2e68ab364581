"""Whatever arrives, reading ends in a value or in one of three errors."""

from __future__ import annotations

import contextlib
import json
import pickle
import string
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_values import examples, hostile
from umbel.exceptions import ContentDisallowed, DecodeError, InvalidTaskError
from umbel.message import Message
from umbel.serializers import accepted, compress, json_dumps
from umbel.wire import envelope
from umbel.wire.errors import exception_from_wire, exception_to_wire
from umbel.wire.names import TASK_HEADERS
from umbel.wire.result import decode_meta, result_of
from umbel.wire.task import Request, TaskEncoder, decode, peek_id
from umbel.wire.times import due, from_iso

ACCEPT = accepted(["json"])
ALL = accepted(["json", "yaml", "msgpack", "pickle"])
REFUSALS = (DecodeError, ContentDisallowed, InvalidTaskError)

_HEADERS = st.dictionaries(st.sampled_from([*sorted(TASK_HEADERS), "compression", "x"]), hostile)
_BODY = st.binary(max_size=50) | hostile.map(json.dumps).map(str.encode)


def message(body: Any = ([], {}, None), headers: Any = None, **fields: Any) -> Message:
    data = body if isinstance(body, bytes) else json_dumps(body)
    told = {"task": "t", "id": "i"} if headers is None else headers
    return Message("i", data, told, "work", **fields)


def read(given_message: Message, accept: frozenset[str] = ACCEPT) -> Request | None:
    """Decode, and tell a refusal by None; any other exception fails the test."""
    try:
        request = decode(given_message, accept)
    except REFUSALS as error:
        text = str(error)
    else:
        return checked(request)
    assert 0 < len(text) < 500
    return None


def checked(request: Request) -> Request:
    assert isinstance(request.id, str)
    assert isinstance(request.task, str)
    assert isinstance(request.args, list)
    assert isinstance(request.kwargs, dict)
    assert all(isinstance(name, str) for name in request.kwargs)
    assert 0 <= request.retries < 1 << 31
    assert len(request.timelimit) == 2
    return request


class TestTasks:
    @examples
    @given(_HEADERS, _BODY)
    def test_any_headers_and_body(self, headers: dict[str, Any], body: bytes) -> None:
        read(message(body, headers))
        peek_id(message(body, headers))

    @examples
    @given(_HEADERS)
    def test_any_headers_around_a_right_body(self, headers: dict[str, Any]) -> None:
        read(message(headers={"task": "t", "id": "i", **headers}))

    @examples
    @given(hostile)
    def test_any_body_under_right_headers(self, body: Any) -> None:
        read(message(body))

    @examples
    @given(st.sampled_from(sorted(TASK_HEADERS)), hostile)
    def test_one_wrong_header_in_a_whole_message(self, name: str, value: Any) -> None:
        whole = TaskEncoder("t").encode((1,), {}, id="i", sent_at=0.0)
        read(message(whole.body, {**whole.headers, name: value}))

    @examples
    @given(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), hostile)
    def test_any_follow_ups(self, name: str, value: Any) -> None:
        request = read(message([[], {}, {name: value}]))
        if request is not None and getattr(request, name):
            followers = getattr(request, name)
            for follower in followers if isinstance(followers, list) else [followers]:
                assert isinstance(follower["task"], str)

    @examples
    @given(st.binary(max_size=60), st.sampled_from(sorted(ALL)), st.sampled_from(["", "zlib"]))
    def test_any_bytes_of_any_type(self, data: bytes, content_type: str, how: str) -> None:
        body, headers = data, {"task": "t", "id": "i"}
        if how:
            body, headers["compression"] = compress(how, data)
        read(message(body, headers, content_type=content_type), ALL)
        read(message(data, {**headers, "compression": "zlib"}), ALL)

    @examples
    @given(st.text(string.printable, max_size=20), st.text(max_size=20))
    def test_any_content_type_and_encoding(self, content_type: str, encoding: str) -> None:
        read(message(content_type=content_type, content_encoding=encoding))

    @pytest.mark.parametrize(
        ("body", "headers"),
        [
            ([[], {}, None], {"task": "t"}),  # no id
            ([[], {}, None], {"task": "t", "id": ""}),
            ([[], {}, None], {"task": "t", "id": 5}),
            ([[], {}, None], {"task": "t", "id": "a\0b"}),
            ([[], {}, None], {"task": "t", "id": "\ud800"}),
            ([[], {}, None], {"task": "", "id": "i"}),
            ([[], {}, None], {"task": ["t"], "id": "i"}),
            ([[], {}, None], {}),  # neither protocol
            ({"task": "t"}, {}),
            ({"id": "i"}, {}),
            ({"task": "t", "id": "i", "args": 5}, {}),
            ({"task": "t", "id": "i", "kwargs": []}, {}),
            ({"task": "t", "id": "i", "args": None}, {}),
            ({"task": "t", "id": "i", "eta": "soon"}, {}),
            ([[], {}], None),  # two elements
            ([[], {}, None, None], None),
            ([], None),
            ({}, None),
            (None, None),
            (5, None),
            ("abc", None),
            ([{}, {}, None], None),  # arguments no list
            (["ab", {}, None], None),
            ([None, {}, None], None),
            ([[], [], None], None),  # keyword arguments no object
            ([[], None, None], None),
            ([[], "ab", None], None),
            ([[], {}, "x"], None),
            ([[], {}, [1]], None),
            ([[], {}, {"chain": "x"}], None),
            ([[], {}, {"chain": [None]}], None),
            ([[], {}, {"callbacks": [{"task": 5}]}], None),
            ([[], {}, {"callbacks": [{"task": "t", "options": []}]}], None),
            ([[], {}, {"chord": []}], None),
        ],
    )
    def test_shapes_that_stop_a_celery_worker(self, body: Any, headers: Any) -> None:
        with pytest.raises(InvalidTaskError):
            decode(message(body, headers), ACCEPT)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("eta", 5),
            ("eta", "soon"),
            ("eta", "2030-13-01T00:00:00"),
            ("eta", ["2030-01-01"]),
            ("eta", "0001-01-01T00:00:00+14:00\0"),
            ("expires", {}),
            ("expires", True),
            ("retries", "1"),
            ("retries", True),
            ("retries", -1),
            ("retries", 1.5),
            ("retries", 10**30),
            ("timelimit", [1]),
            ("timelimit", "ab"),
            ("timelimit", ["1", None]),
            ("timelimit", [float("nan"), None]),
            ("timelimit", [float("inf"), None]),
            ("timelimit", [None, -1]),
            ("timelimit", [None, 10**400]),
            ("group", 5),
            ("group_index", "0"),
            ("root_id", ["x"]),
            ("parent_id", 5),
            ("shadow", {}),
            ("ignore_result", "yes"),
            ("replaced_task_nesting", "0"),
            ("stamps", []),
            ("stamps", "x"),
            ("stamped_headers", "ab"),
            ("stamped_headers", [1]),
            ("stamped_headers", {"a": 1}),
        ],
    )
    def test_headers_of_a_wrong_type(self, name: str, value: Any) -> None:
        if name == "stamps" and value == []:
            value = [1]  # an empty list is how some languages write an empty table
        whole = TaskEncoder("t").encode((), {}, id="i", sent_at=0.0)
        for headers in ({"task": "t", "id": "i"}, whole.headers):
            with pytest.raises(InvalidTaskError):
                decode(message(headers={**headers, name: value}), ACCEPT)

    @pytest.mark.parametrize("headers", [[], None, "text", 5, [("task", "t")]])
    def test_headers_that_are_no_dict(self, headers: Any) -> None:
        with pytest.raises(InvalidTaskError):
            decode(Message("i", b"[[], {}, null]", headers, "work"), ACCEPT)
        assert peek_id(Message("i", b"[[], {}, null]", headers, "work")) == "i"

    @pytest.mark.parametrize("content_type", ["", "text/plain", "application/data"])
    def test_a_content_type_that_is_missing_or_none_of_ours(self, content_type: str) -> None:
        with pytest.raises(ContentDisallowed):
            decode(message(content_type=content_type), ACCEPT)

    def test_deep_nesting(self) -> None:
        deep = b"[" * 100_000
        for body in (deep, deep + b"]" * 100_000, b"[" + deep, b'{"a":' * 100_000):
            with pytest.raises(DecodeError):
                decode(message(body), ACCEPT)

    def test_nesting_that_json_just_takes_is_no_trouble_later(self) -> None:
        value: Any = []
        for _ in range(500):
            value = [value]
        for body in ([value, {}, None], value, [[], value, None], [[], {}, value]):
            read(message(body))
        read(message(headers={"task": "t", "id": "i", "eta": value}))

    def test_keys_that_are_no_text(self) -> None:
        body = msgpack.packb([[], {1: 2}, None])
        with pytest.raises(InvalidTaskError):
            decode(message(body, content_type="application/x-msgpack"), ALL)

    def test_objects_that_raise_when_compared(self) -> None:
        body = pickle.dumps([[], {}, {"callbacks": Incomparable()}])
        with pytest.raises(InvalidTaskError):
            decode(message(body, content_type="application/x-python-serialize"), ALL)


class Incomparable:
    """What pickle may bring: an object whose every comparison fails."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")

    def __hash__(self) -> int:
        raise RuntimeError("unhashable")


class TestEnvelopes:
    @examples
    @given(st.binary(max_size=80) | hostile.map(json.dumps).map(str.encode))
    def test_any_bytes(self, data: bytes) -> None:
        found, problem = envelope.unpack(data)
        assert problem is None or found.body == data

    @examples
    @given(
        st.dictionaries(
            st.sampled_from(["body", "headers", "properties", "content-type", "content-encoding"]),
            hostile,
        )
    )
    def test_any_parts(self, parts: dict[str, Any]) -> None:
        found, problem = envelope.unpack(json_dumps({"body": "e30=", **parts}))
        if problem is None:
            read(found)

    @examples
    @given(st.dictionaries(st.text(), hostile), st.sampled_from(["base64", "utf-8", None, 5]))
    def test_any_properties(self, properties: dict[str, Any], encoding: Any) -> None:
        whole = json.loads(envelope.pack(message(), delivery_tag="d"))
        whole["properties"] |= properties | {"body_encoding": encoding}
        found, problem = envelope.unpack(json_dumps(whole))
        if problem is None:
            read(found)

    def test_names_are_such_as_every_server_can_use(self) -> None:
        whole = json.loads(envelope.pack(message(), delivery_tag="d"))
        whole["headers"]["id"] = whole["properties"]["reply_to"] = "\ud800"
        whole["properties"]["delivery_info"] = {"exchange": "a\0b", "routing_key": "\udfff"}
        found, problem = envelope.unpack(json_dumps(whole))
        assert problem is None
        assert (found.id, found.reply_to, found.exchange, found.routing_key) == ("", "", "", "")
        with pytest.raises(InvalidTaskError):
            decode(found, ACCEPT)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{}",
            b"[]",
            b"5",
            b"null",
            b"rubbish",
            b'{"body": 5}',
            b'{"body": "x", "headers": []}',
            b'{"body": "x", "properties": 5}',
            b'{"body": "x", "properties": {"delivery_info": []}}',
            b'{"body": "\\u00ff", "properties": {"body_encoding": "base64"}}',
            b'{"body": "abc", "properties": {"body_encoding": "base64"}}',
            b"[" * 100_000,
        ],
    )
    def test_what_is_no_envelope_has_a_problem(self, data: bytes) -> None:
        found, problem = envelope.unpack(data)
        assert problem
        assert found.body == data


class TestResults:
    @examples
    @given(st.binary(max_size=60) | hostile.map(json.dumps).map(str.encode))
    def test_any_bytes(self, data: bytes) -> None:
        try:
            meta = decode_meta(data)
        except DecodeError:
            return
        result_of(meta)

    @examples
    @given(st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "REVOKED"]), hostile)
    def test_any_result(self, state: str, result: Any) -> None:
        found = result_of(decode_meta(json_dumps({"status": state, "result": result})))
        if state != "SUCCESS":
            assert found is None or isinstance(found, BaseException)

    @examples
    @given(st.dictionaries(st.sampled_from(["exc_type", "exc_message", "exc_module"]), hostile))
    def test_any_exception(self, stored: dict[str, Any]) -> None:
        found = exception_from_wire(stored)
        assert isinstance(found, BaseException)
        assert all(isinstance(show(found), str) for show in (str, repr))
        exception_to_wire(found)

    @examples
    @given(
        st.sampled_from(["os", "builtins", "sys", "json", "umbel.exceptions", "no.module"]),
        st.sampled_from(
            ["system", "exec", "ValueError", "type", "modules", "path.join", "X.Y", "."]
        )
        | st.text(),
        st.lists(hostile, max_size=3),
    )
    def test_no_function_is_called(self, module: str, name: str, args: list[Any]) -> None:
        stored = {"exc_type": name, "exc_module": module, "exc_message": args}
        assert isinstance(exception_from_wire(stored), BaseException)


class TestTimes:
    @examples
    @given(st.text() | st.datetimes().map(str))
    def test_any_text(self, text: str) -> None:
        with contextlib.suppress(InvalidTaskError):
            assert isinstance(from_iso(text), float)

    @examples
    @given(hostile, hostile)
    def test_any_headers(self, eta: Any, expires: Any) -> None:
        not_before, expires_at = due({"eta": eta, "expires": expires})
        assert isinstance(not_before, float)
        assert expires_at is None or isinstance(expires_at, float)
