"""Workflows, compared with what a real Celery makes of the same expressions, and sends for them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.interop import canvases, golden_files
from tests.unit import sent
from umbel import Umbel, chain, chord, group, maybe_signature

CASES = golden_files.cases("canvas")
#: Sent otherwise, on purpose: these are where Celery loses the order of values, or the values.
OURS = {
    **dict.fromkeys(
        ("group(a, group)", "group([group, c])", "chord([group, c], d)"),
        "members of an inner group have places of their own, so that the order is the written one",
    ),
    "chord([chain to group], d)": "the inner group is gathered by celery.accumulate",
    "group(chain to group, d)": "the inner group's members are in the inner group",
    **dict.fromkeys(
        ("chord(header, group)", "group | group"),
        "the body's members are in the body's group, not in the header's",
    ),
    **dict.fromkeys(
        (
            *("chord | chain", "chord | group", "chain(chord, group)", "chain(chord, c)"),
            *("chain to group | chain", "chain to chord | e", "chain to chord | group"),
            *("chain to chord | chord", "a | chord | d", "chain(a, chord, d)"),
            *("chain(a, group, d, e)",),
        ),
        "what follows a chord is part of its body, not an option of it or a link of the chain",
    ),
    "a | chunks": "celery.chunks is sent as the group that it stands for",
}


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Any:
    with Umbel("canvas", f"memory://{request.node.name}") as app:
        for name in "abcdefg":
            app.task(name=name)(_returning())

        def chunks(name: str, size: int) -> Any:
            return app.tasks[name].chunks(zip(range(4), range(4), strict=True), size)

        yield SimpleNamespace(
            app=app, chain=chain, group=group, chord=chord, call=app.signature, chunks=chunks
        )


def _returning() -> Any:
    def task(*args: Any) -> Any:
        return args

    return task


def test_every_workflow_was_captured() -> None:
    assert canvases.SHAPES.keys() == CASES.keys()


@pytest.mark.parametrize("case", canvases.SHAPES)
def test_it_has_celerys_shape(names: Any, case: str) -> None:
    made = canvases.SHAPES[case](names)
    assert canvases.shape(made) == CASES[case]["shape"]
    assert canvases.shape(maybe_signature(json.loads(json.dumps(made)))) == CASES[case]["shape"]


@pytest.mark.parametrize("case", canvases.SHAPES)
def test_it_sends_celerys_messages(names: Any, case: str) -> None:
    made = canvases.SHAPES[case](names)
    if case not in ("chain()", "group()"):
        made.apply_async()
    messages = sent.messages(names.app)
    ours = canvases.sent((each.headers, json.loads(each.body)) for each in messages)
    assert (ours == CASES[case]["sent"]) is (case not in OURS)
