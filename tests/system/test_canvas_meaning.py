"""Random workflows do what they say: eagerly, in memory, on SQLite and on Redis.

``outcome`` is the plain meaning of a workflow, in a few lines and without messages. What comes out
of running one must be the same: values in their places, failures where they are, and what waited
for them failed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.system.engines import running
from umbel import Signature, Umbel, chain, chord, group
from umbel.result import AsyncResult, GroupResult

#: Seconds.
PATIENCE = 60.0

# Hypothesis sees that random numbers are drawn while it makes an example: the engine's jitter.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")


@dataclass(frozen=True)
class Say:
    """A task that returns the list of what it was given."""

    word: str


@dataclass(frozen=True)
class Fail:
    """A task that fails."""


@dataclass(frozen=True)
class Chain:
    links: tuple[Node, ...]


@dataclass(frozen=True)
class Group:
    members: tuple[Node, ...]


@dataclass(frozen=True)
class Chord:
    header: tuple[Node, ...]
    body: Node


Node: TypeAlias = Say | Fail | Chain | Group | Chord


# --- what it means


@dataclass(frozen=True)
class Error:
    """In place of a value: the name of the exception's class."""

    name: str


def outcome(node: Node, *given: Any, single: bool = False) -> Any:
    """Return the value of a workflow that was given these arguments; ``single`` as a member."""
    match node:
        case Say(word):
            return [*given, word]
        case Fail():
            return Error("ValueError")
        case Group(members):
            values = [outcome(each, *given, single=single) for each in flat(members)]
            return joined(values) if single else values
        case Chord(header, body):
            values = joined([outcome(each, *given, single=True) for each in flat(header)])
            return onward(values, body, single=single)
        case Chain(links):
            *before, last = unrolled(links)
            for index, each in enumerate(before):
                value = outcome(each, *given, single=True)
                if isinstance(value, Error):
                    return filled([*before[index + 1 :], last], value, single=single)
                given = (value,)
            return outcome(last, *given, single=single)


def unrolled(links: Sequence[Node]) -> list[Node]:
    return [
        inner
        for each in links
        for inner in (unrolled(each.links) if isinstance(each, Chain) else [each])
    ]


def flat(members: Sequence[Node]) -> list[Node]:
    return [
        inner
        for each in members
        for inner in (flat(each.members) if isinstance(each, Group) else [each])
    ]


def joined(values: list[Any]) -> Any:
    return Error("ChordError") if any(isinstance(each, Error) for each in values) else values


def onward(value: Any, following: Node, *, single: bool) -> Any:
    if isinstance(value, Error):
        return filled([following], value, single=single)
    return outcome(following, value, single=single)


def filled(rest: Sequence[Node], error: Error, *, single: bool) -> Any:
    """Return the outcome of what never ran."""
    last = rest[-1]
    match last:
        case Chain(links):
            return filled(links, error, single=single)
        case Chord(_, body):
            return filled([body], error, single=single)
        case Group(members) if not single:
            return [filled([each], error, single=False) for each in flat(members)]
        case _:
            return error


# --- random ones

words = st.sampled_from("abc").map(Say)
tasks = st.one_of(words, words, words, st.just(Fail()))


def composed(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    headers = st.lists(parts, max_size=3).map(tuple)
    return st.one_of(
        several.map(Chain), several.map(Group), st.tuples(headers, parts).map(lambda it: Chord(*it))
    )


workflows: st.SearchStrategy[Node] = st.recursive(tasks, composed, max_leaves=12)


# --- and what comes of them


def build(
    node: Node, *, say: Callable[[str], Signature[Any]], fail: Callable[[], Signature[Any]]
) -> Signature[Any]:
    def made(node: Node) -> Signature[Any]:
        match node:
            case Say(word):
                return say(word)
            case Fail():
                return fail()
            case Chain(links):
                return chain([*map(made, links)])
            case Group(members):
                return group([*map(made, members)])
            case Chord(header, body):
                return chord([*map(made, header)], made(body))

    return made(node)


class Stage:
    """An application whose tasks say and fail."""

    def __init__(self, app: Umbel) -> None:
        self.app = app

        @app.task(name="say")
        def say(*words: Any) -> list[Any]:
            return [*words]

        @app.task(name="fail")
        def fail(*_: Any) -> None:
            raise ValueError("failed")

        self._say, self._fail = say, fail

    def check(self, node: Node) -> None:
        result = build(node, say=self._say.s, fail=self._fail.s).apply_async()
        assert found(result) == outcome(node)


def found(result: Any, patience: float = PATIENCE) -> Any:
    if isinstance(result, GroupResult):
        return [found(each, patience) for each in result.results]
    assert isinstance(result, AsyncResult)
    value = result.get(timeout=patience, propagate=False)
    return Error(type(value).__name__) if isinstance(value, BaseException) else value


@contextmanager
def stage(url: str, **conf: Any) -> Generator[Stage]:
    with Umbel("meaning", broker=url, set_as_current=False, **conf) as app:
        made = Stage(app)
        if conf:
            yield made
        else:
            with running(app, lanes=2):
                yield made


def check_all(made: Stage, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(workflows)
    def check(node: Node) -> None:
        made.check(node)

    check()


def test_eagerly() -> None:
    with stage("memory://meaning-eager", task_always_eager=True) as made:
        check_all(made, 200)


def test_in_memory() -> None:
    with stage("memory://meaning") as made:
        check_all(made, 150)


@pytest.mark.parametrize("server", ["sqlite", "redis"])
def test_on_a_server(server: str, request: pytest.FixtureRequest) -> None:
    if server == "redis":
        url = str(request.getfixturevalue("redis_url"))
    else:
        url = f"sqlite:///{request.getfixturevalue('tmp_path')}/meaning.sqlite"
    with stage(url) as made:
        check_all(made, 30)
