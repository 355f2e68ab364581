"""Workflows as expressions, built alike by Celery and by umbel, and a common form of both.

``capture_canvas.py`` builds them with a real Celery and keeps their shapes and messages.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

Build = Callable[["Names"], Any]


class Names(Protocol):
    """What an expression is built of; ``call("a")`` is a signature of the task of that name."""

    chain: Any
    group: Any
    chord: Any

    def call(self, name: str) -> Any:
        """Return a signature."""
        ...

    def chunks(self, name: str, size: int) -> Any:
        """Return chunks of four pairs of numbers."""
        ...


class _Calls:
    """``c.a`` for ``c.call("a")``, to make the expressions readable."""

    def __init__(self, names: Names) -> None:
        self.chain, self.group, self.chord = names.chain, names.group, names.chord
        self.chunks = names.chunks
        for name in "abcdefg":
            setattr(self, name, lambda name=name: names.call(name))


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "a | b": lambda c: c.a() | c.b(),
    "a | b | c": lambda c: c.a() | c.b() | c.c(),
    "a | chain": lambda c: c.a() | (c.b() | c.c()),
    "chain | chain": lambda c: (c.a() | c.b()) | (c.c() | c.d()),
    "a | group": lambda c: c.a() | c.group(c.b(), c.c()),
    "a | group of one": lambda c: c.a() | c.group(c.b()),
    "a | empty group": lambda c: c.a() | c.group([]),
    "group | c": lambda c: c.group(c.a(), c.b()) | c.c(),
    "group of one | c": lambda c: c.group(c.a()) | c.c(),
    "empty group | c": lambda c: c.group([]) | c.c(),
    "group | group": lambda c: c.group(c.a(), c.b()) | c.group(c.c(), c.d()),
    "group | chain": lambda c: c.group(c.a(), c.b()) | (c.c() | c.d()),
    "group | chord": lambda c: c.group(c.a(), c.b()) | c.chord([c.c()], c.d()),
    "chain to group | d": lambda c: (c.a() | c.group(c.b(), c.c())) | c.d(),
    "chain to group | group": lambda c: (c.a() | c.group(c.b(), c.c())) | c.group(c.d(), c.e()),
    "chain to group | chain": lambda c: (c.a() | c.group(c.b(), c.c())) | (c.d() | c.e()),
    "chain to group | chord": lambda c: (c.a() | c.group(c.b(), c.c())) | c.chord([c.d()], c.e()),
    "chain to chord | e": lambda c: (c.a() | c.chord([c.b(), c.c()], c.d())) | c.e(),
    "chain to chord | group": lambda c: (c.a() | c.chord([c.b()], c.d())) | c.group(c.e(), c.f()),
    "chain to chord | chord": lambda c: (c.a() | c.chord([c.b()], c.d())) | c.chord([c.e()], c.f()),
    "chord | d": lambda c: c.chord([c.a(), c.b()], c.c()) | c.d(),
    "chord | group": lambda c: c.chord([c.a(), c.b()], c.c()) | c.group(c.d(), c.e()),
    "chord | chain": lambda c: c.chord([c.a(), c.b()], c.c()) | (c.d() | c.e()),
    "chord | chord": lambda c: c.chord([c.a(), c.b()], c.c()) | c.chord([c.d()], c.e()),
    "a | chord": lambda c: c.a() | c.chord([c.b()], c.c()),
    "a | chord | d": lambda c: c.a() | c.chord([c.b()], c.c()) | c.d(),
    "chain()": lambda c: c.chain(),
    "chain(a)": lambda c: c.chain(c.a()),
    "chain(a, b)": lambda c: c.chain(c.a(), c.b()),
    "chain([a, b])": lambda c: c.chain([c.a(), c.b()]),
    "chain(generator)": lambda c: c.chain(each for each in (c.a(), c.b())),
    "chain(group)": lambda c: c.chain(c.group(c.a(), c.b())),
    "chain(group, c)": lambda c: c.chain(c.group(c.a(), c.b()), c.c()),
    "chain(group, c, d)": lambda c: c.chain(c.group(c.a(), c.b()), c.c(), c.d()),
    "chain(a, group, d, e)": lambda c: c.chain(c.a(), c.group(c.b(), c.c()), c.d(), c.e()),
    "chain(a, group, group)": lambda c: c.chain(
        c.a(), c.group(c.b(), c.c()), c.group(c.d(), c.e())
    ),
    "chain(a, group, group, f)": lambda c: c.chain(
        c.a(), c.group(c.b(), c.c()), c.group(c.d(), c.e()), c.f()
    ),
    "chain(chains)": lambda c: c.chain(c.chain(c.a(), c.b()), c.chain(c.c(), c.d())),
    "chain(chord, c)": lambda c: c.chain(c.chord([c.a()], c.b()), c.c()),
    "chain(chord, group)": lambda c: c.chain(c.chord([c.a()], c.b()), c.group(c.c(), c.d())),
    "chain(a, chord, d)": lambda c: c.chain(c.a(), c.chord([c.b()], c.c()), c.d()),
    "chain(a, empty group, b)": lambda c: c.chain(c.a(), c.group([]), c.b()),
    "chain(chain)": lambda c: c.chain(c.chain(c.a())),
    "group(a, b)": lambda c: c.group(c.a(), c.b()),
    "group(a, group)": lambda c: c.group(c.a(), c.group(c.b(), c.c())),
    "group(group)": lambda c: c.group(c.group(c.a(), c.b())),
    "group([group, c])": lambda c: c.group([c.group(c.a(), c.b()), c.c()]),
    "group(chain, c)": lambda c: c.group(c.chain(c.a(), c.b()), c.c()),
    "group([a])": lambda c: c.group([c.a()]),
    "group()": lambda c: c.group(),
    "group(chord, c)": lambda c: c.group(c.chord([c.a()], c.b()), c.c()),
    "group(chain to group, d)": lambda c: c.group(c.chain(c.a(), c.group(c.b(), c.c())), c.d()),
    "chord(group, c)": lambda c: c.chord(c.group(c.a(), c.b()), c.c()),
    "chord([group, c], d)": lambda c: c.chord([c.group(c.a(), c.b()), c.c()], c.d()),
    "chord(a, b)": lambda c: c.chord(c.a(), c.b()),
    "chord(header, chain)": lambda c: c.chord([c.a(), c.b()], c.c() | c.d()),
    "chord(header, group)": lambda c: c.chord([c.a()], c.group(c.b(), c.c())),
    "chord(header, chord)": lambda c: c.chord([c.a()], c.chord([c.b()], c.c())),
    "chord([chain, c], d)": lambda c: c.chord([c.a() | c.b(), c.c()], c.d()),
    "chord([chain to group], d)": lambda c: c.chord([c.a() | c.group(c.b(), c.c())], c.d()),
    "chord([chord, d], e)": lambda c: c.chord([c.chord([c.a(), c.b()], c.c()), c.d()], c.e()),
    "chord(chain, d)": lambda c: c.chord(c.a() | c.b(), c.d()),
    "chord([], c)": lambda c: c.chord([], c.c()),
    "chord, body with errback": lambda c: c.chord([c.a()], c.b().on_error(c.c())),
    "chain, errback": lambda c: (c.a() | c.b()).on_error(c.c()),
    "chain with link": lambda c: c.a().set(link=[c.b() | c.c()]) | c.d(),
    "link to group": lambda c: c.a().set(link=[c.group(c.b(), c.c())]),
    "chunks": lambda c: c.chunks("a", 2),
    "a | chunks": lambda c: c.a() | c.chunks("b", 2),
}


def _built(build: Callable[[Any], Any]) -> Build:
    return lambda names: build(_Calls(names))


SHAPES: dict[str, Build] = {name: _built(build) for name, build in _SHAPES.items()}

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Options that say nothing where they are null, or are a process's own.
_SILENT = ("root_id", "parent_id", "chord", "reply_to", "add_to_parent")


def shape(workflow: Any) -> Any:
    """Return the structure of a workflow that has not been sent."""
    return _cleaned(json.loads(json.dumps(workflow)))


def sent(messages: Iterable[tuple[Mapping[str, Any], Any]]) -> Any:
    """Return messages (headers, body) in a form without ids, sorted by their task's name."""
    found = []
    for headers, (args, kwargs, embed) in messages:
        about = {name: headers[name] for name in ("task", "id", "group", "group_index")}
        follows = {name: value for name, value in embed.items() if value}
        found.append({**about, "args": args, "kwargs": kwargs, "embed": follows})
    found.sort(key=lambda message: str(message["task"]))
    return _renumbered(_cleaned(json.loads(json.dumps(found))))


def _renumbered(value: Any) -> Any:
    numbers: dict[str, str] = {}
    count = itertools.count()

    def number(found: re.Match[str]) -> str:
        return numbers.setdefault(found.group(), f"#{next(count)}")

    return json.loads(_ID.sub(number, json.dumps(value)))


def _cleaned(value: Any) -> Any:
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if not isinstance(value, dict):
        return value
    cleaned = {name: _cleaned(each) for name, each in sorted(value.items())}
    if "subtask_type" in cleaned:
        options = cleaned["options"]
        for name in _SILENT:
            if name == "reply_to" or not options.get(name):
                options.pop(name, None)
    return cleaned
