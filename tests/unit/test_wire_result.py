"""What a store keeps of a task's result."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given

from tests.unit.wire_values import examples, values
from umbel import exceptions, states
from umbel.exceptions import DecodeError, EncodeError
from umbel.serializers import get
from umbel.wire.errors import exception_to_wire
from umbel.wire.request import Request
from umbel.wire.result import (
    compress_meta,
    decode_group,
    decode_meta,
    encode_group,
    encode_meta,
    group_tuple,
    result_of,
    task_tuple,
)

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC).timestamp()
ISO = "2030-01-01T12:00:00+00:00"


@examples
@given(values)
def test_results_come_back(value: Any) -> None:
    meta = decode_meta(encode_meta("i", states.SUCCESS, result=value, date_done=NOON))
    assert result_of(meta) == value
    assert (meta["task_id"], meta["date_done"], meta["children"]) == ("i", ISO, None)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"children": ()},
        {"children": [task_tuple("c")]},
        {"request": Request()},
        {"request": Request(group="g", parent_id="p")},
        {"request": Request(group='g\u00e9"')},
        {"request": Request(parent_id="p")},
        {"date_done": 5},
        {"date_done": None},
        {"date_done": ISO},
    ],
)
def test_the_hot_path_and_the_general_one_agree(facts: dict[str, Any]) -> None:
    def also_json(value: Any) -> bytes:
        return get("json").dumps(value)

    facts = {"result": [1, "a"], "date_done": NOON, **facts}
    hot = encode_meta('i"1', states.SUCCESS, **facts)
    general = encode_meta('i"1', states.SUCCESS, dumps=also_json, **facts)
    assert json.loads(hot) == json.loads(general)


def test_only_final_states_have_a_date() -> None:
    for state in (states.STARTED, states.RETRY, "PROGRESS"):
        assert decode_meta(encode_meta("i", state, date_done=NOON))["date_done"] is None
    for state in (states.SUCCESS, states.FAILURE, states.REVOKED):
        assert decode_meta(encode_meta("i", state, date_done=NOON))["date_done"] == ISO


def test_exceptions_are_written_for_all_states_but_success() -> None:
    for state in (states.FAILURE, states.RETRY, states.REVOKED):
        meta = decode_meta(encode_meta("i", state, result=ValueError("bad")))
        assert meta["result"] == exception_to_wire(ValueError("bad"))
        assert isinstance(result_of(meta), ValueError)
    for extended in (False, True):
        with pytest.raises(EncodeError):
            encode_meta(
                "i",
                states.SUCCESS,
                result=ValueError("returned"),
                request=Request(),
                extended=extended,
            )


def test_a_retry_shows_what_caused_it() -> None:
    caused = exceptions.Retry("later", KeyError("k"), 3)
    uncaused = exceptions.Retry("later", None, 3)
    assert isinstance(
        result_of(decode_meta(encode_meta("i", states.RETRY, result=caused))), KeyError
    )
    assert result_of(decode_meta(encode_meta("i", states.RETRY, result=uncaused))) is None


def test_what_has_no_form_is_refused() -> None:
    for extended in (False, True):
        with pytest.raises(EncodeError):
            encode_meta("i", states.SUCCESS, result={1}, request=Request(), extended=extended)


def test_extended_results() -> None:
    request = Request(
        task="t",
        args=[1],
        kwargs={"k": 2},
        retries=3,
        hostname="w",
        delivery_info={"routing_key": "work"},
        stamps={"tenant": "x"},
        stamped_headers=["tenant", "missing"],
    )
    meta = decode_meta(encode_meta("i", states.SUCCESS, request=request, extended=True))
    assert meta["name"] == "t"
    assert (meta["args"], meta["kwargs"], meta["retries"]) == ([1], {"k": 2}, 3)
    assert (meta["worker"], meta["queue"]) == ("w", "work")
    assert (meta["stamped_headers"], meta["tenant"]) == (["tenant", "missing"], "x")


def test_arguments_without_a_form_do_not_cost_the_result() -> None:
    request = Request(task="t", args=[{1}], kwargs={"k": object})
    data = encode_meta("i", states.SUCCESS, result=5, request=request, extended=True, worker="w")
    meta = decode_meta(data)
    assert (meta["result"], meta["args"], meta["worker"]) == (5, "[{1}]", "w")


@pytest.mark.parametrize("name", ["pickle", "yaml", "msgpack"])
def test_other_formats(name: str) -> None:
    serializer = get(name)
    data = encode_meta(
        "i", states.FAILURE, result=ValueError("bad", {1}), dumps=serializer.dumps, date_done=NOON
    )
    meta = decode_meta(data, serializer.loads)
    error = result_of(meta)
    assert isinstance(error, ValueError)
    assert list(error.args) == ["bad", "{1}" if name == "msgpack" else {1}]


@pytest.mark.parametrize("name", ["zlib", "bzip2", "lzma", "zstd"])
def test_compressed_results_are_recognised(name: str) -> None:
    data = encode_meta("i", states.SUCCESS, result="x" * 1000)
    compressed = compress_meta(data, name)
    assert compressed.startswith(b"\x00celery-compressed\x00application/")
    assert len(compressed) < len(data)
    assert decode_meta(compressed)["result"] == "x" * 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"5",
        b"[]",
        b"{}",
        b'{"status": 5}',
        b"\x00celery-compressed\x00",
        b"\x00celery-compressed\x00application/x-gzip\x00rubbish",
        b"\x00celery-compressed\x00\xff\x00rubbish",
        b"\x00other",
    ],
)
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_meta(data)


def test_saved_groups() -> None:
    group = group_tuple("g", [task_tuple("a"), task_tuple("b", task_tuple("p"))], task_tuple("q"))
    data = encode_group(group)
    assert json.loads(data) == {
        "result": [
            ["g", [["q", None], None]],
            [[["a", None], None], [["b", [["p", None], None]], None]],
        ]
    }
    assert decode_group(data) == group
    for broken in (b"[]", b"{}", b"x"):
        with pytest.raises(DecodeError):
            decode_group(broken)
