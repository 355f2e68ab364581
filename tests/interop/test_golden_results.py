"""Results, compared as values with what a real Celery worker stored, plain and extended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.interop import golden_files
from tests.interop.values import SPECIAL
from umbel import exceptions, states
from umbel.serializers import accepted
from umbel.wire import envelope
from umbel.wire.result import decode_meta, encode_meta, group_tuple, result_of, task_tuple
from umbel.wire.task import Request, decode

ACCEPT = accepted(["json", "pickle"])
FILES = {"plain": golden_files.cases("results"), "extended": golden_files.cases("results-extended")}
WORKER = "w1@golden.example"

#: Case -> (state, result) of each meta that was stored, in order.
STORED: dict[str, list[tuple[str, Any]]] = {
    "success": [(states.SUCCESS, 3)],
    "success-none": [(states.SUCCESS, [[], {}])],
    "special": [(states.SUCCESS, SPECIAL)],
    "failure": [(states.FAILURE, ValueError("bad", 42))],
    "failure-unencodable": [(states.FAILURE, ValueError("bad", {1}, object))],
    "failure-key": [(states.FAILURE, KeyError("missing"))],
    "retry": [(states.RETRY, KeyError("first")), (states.SUCCESS, "v")],
    "started": [(states.STARTED, ...), (states.SUCCESS, "done")],
    "progress": [("PROGRESS", {"done": 1, "of": 2}), (states.SUCCESS, "done")],
    "rejected": [(states.FAILURE, exceptions.Reject("no", requeue=False))],
    "unknown": [(states.FAILURE, exceptions.NotRegistered("no.such.task"))],
    "expired": [(states.REVOKED, exceptions.TaskRevokedError("expired"))],
    "revoked": [(states.REVOKED, exceptions.TaskRevokedError("revoked"))],
    "group-member": [(states.SUCCESS, 3)],
    "stamped": [(states.SUCCESS, 3)],
    "again-later": [(states.RETRY, exceptions.Retry("Retry in 3600s", None, 3600))],
    "children": [(states.SUCCESS, ...)],
    "ignored": [],
}
CASES = [(kind, name) for kind in FILES for name in STORED]


def _requests(case: dict[str, Any]) -> list[Request | None]:
    """Return the request of each attempt, from the messages that a Celery client sent."""
    return [
        decode(envelope.unpack(text.encode())[0], ACCEPT)
        for text in case["messages"]
        if json.loads(text)["headers"]["id"] == case["id"]
    ]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_result_is_stored_as_celery_stores_it(kind: str, name: str) -> None:
    case = FILES[kind][name]
    golden = [json.loads(text) for text in case["results"]]
    requests = _requests(case)
    assert len(golden) == len(STORED[name])
    for index, (state, result) in enumerate(STORED[name]):
        meta = golden[index]
        request = requests[min(index, len(requests) - 1)] if requests else None
        if name in {"unknown", "expired"}:  # these workers look no further than the message's id
            request, kind = None, "plain"
        ours = encode_meta(
            case["id"],
            state,
            result=meta["result"] if result is ... else result,
            traceback=meta["traceback"],
            children=meta["children"],
            date_done=meta["date_done"],
            request=request,
            extended=kind == "extended",
            worker=WORKER,
        )
        if request is None:
            meta = {name: meta[name] for name in json.loads(ours)}
        assert json.loads(ours) == meta


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_result_of_celery_is_understood(kind: str, name: str) -> None:
    metas = [decode_meta(text.encode()) for text in FILES[kind][name]["results"]]
    for meta, (state, result) in zip(metas, STORED[name], strict=True):
        found = result_of(meta)
        assert meta["status"] == state
        if state == states.RETRY and isinstance(result, exceptions.Retry):
            assert found is None
        elif isinstance(result, BaseException):
            assert type(found) is type(result)
            shown = [arg if isinstance(arg, (str, int)) else repr(arg) for arg in result.args]
            assert list(found.args) == shown
        elif name == "special":
            keys = {"1": 2, "null": 3, "false": 4, "1.5": 5}
            assert found == {**SPECIAL, "tuple": [1, 2], "keys": keys}
        elif result is not ...:
            assert found == result


def test_an_exception_that_celery_had_to_wrap_comes_back() -> None:
    meta = decode_meta(FILES["plain"]["failure-own-class"]["results"][0].encode())
    found = result_of(meta)
    assert type(found).__name__ == "PaymentError"
    assert found.args == ("A-1",)


def test_an_unencodable_result_comes_back_as_our_error() -> None:
    meta = decode_meta(FILES["plain"]["unencodable-result"]["results"][0].encode())
    assert isinstance(result_of(meta), exceptions.EncodeError)


def test_children_are_result_tuples() -> None:
    (text,) = FILES["plain"]["children"]["results"]
    task, group = json.loads(text)["children"]
    assert task == task_tuple(task[0][0])
    members = [task_tuple(member[0][0]) for member in group[1]]
    assert group == group_tuple(group[0][0], members)


@pytest.mark.parametrize("name", ["request", "request-plain"])
def test_a_task_sees_the_request_that_celery_shows(name: str) -> None:
    case = FILES["plain"][name]
    shown = json.loads(case["results"][0])["result"]
    (request,) = _requests(case)
    assert request is not None
    request.hostname = WORKER  # set by the worker
    # Not shown alike: Celery leaves `utc` empty; `properties` holds what has no field of its own.
    for field in set(shown) - {"utc", "properties", "timelimit"}:
        assert getattr(request, field) == shown[field], field
    assert list(request.timelimit) == shown["timelimit"]
