"""The shape of the tree, as rules: what may import what, and where some words may stand.

`RANKS` is the module tree of the design, read from the bottom. A new top-level module needs a line
here; a forbidden import needs a better place for one of the two modules, not an exemption.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[2] / "src"

RANKS = {
    name: rank
    for rank, names in enumerate(
        (
            (
                "exceptions states clock values backoff telemetry topology project arguments "
                "spelling models version"
            ),
            "ids message schedules serializers security",
            "wire settings",
            "servers config checks",
            "bridge",
            "signals routing options annotations addresses",
            "opened",
            "context",
            "control",
            "result",
            "publisher bound log",
            "calling",
            "canvas executor",
            "eager",
            "task",
            "registry",
            "scheduling",
            "app",
            "events beat",
            "worker",
            "web cli contrib testing",
            "__init__ __main__",
        )
    )
    for name in names.split()
}

#: Where each library may be imported: an extra stays optional if one place needs it.
DRIVERS = {
    "redis": "umbel.servers.redis",
    "pika": "umbel.servers.rabbitmq",
    "psycopg": "umbel.servers.postgres",
    "sqlite3": "umbel.servers.sqlite",
    "sqlalchemy": "umbel.servers.sqlalchemy",
    "kombu": "umbel.servers.kombu",
    "msgpack": "umbel.serializers",
    "yaml": "umbel.serializers",
    "zstandard": "umbel.serializers",
    "ephem": "umbel.schedules",
    "dateutil": "umbel.schedules",
    "cryptography": "umbel.security",
    "starlette": "umbel.web",
    "uvicorn": "umbel.web",
    "click": "umbel.cli",
    "rich": "umbel.cli",
}

#: Words that mean nothing outside Celery's bytes, so only `wire` may write them.
CELERY_WORDS = (
    "argsrepr",
    "kwargsrepr",
    "replaced_task_nesting",
    "errbacks",
    "body_encoding",
    "celery@",
    "celeryev",
    "pidbox",
    "celery-task-meta-",
    "celery-taskset-meta-",
    "_kombu.binding",
    "unacked_index",
    "unacked_mutex",
)

#: The two tables that import by name what the user asked for, and what brings asyncio.
LAZY = ("umbel.servers", "umbel.cli.main", "umbel.worker.engine")


class Import(NamedTuple):
    target: str
    line: int
    inside_function: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of umbel by its dotted name."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((SOURCE / "umbel").rglob("*.py"))
    }


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


@cache
def imports(module: str) -> list[Import]:
    """What a module imports, those for annotations only included; of ours, the very module."""
    inner = {
        id(node)
        for function in ast.walk(tree_of(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    return [
        Import(name, node.lineno, id(node) in inner)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _targets(node)
    ]


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"relative import of {node.module} in line {node.lineno}"
    for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        yield whole if whole in modules() else str(node.module)


def own_imports() -> Iterator[tuple[str, Import]]:
    for module in modules():
        for each in imports(module):
            if each.target.split(".")[0] == "umbel":
                yield module, each


def place(module: str) -> str:
    """Return the folder or top-level module in which a module lives: the unit that has a rank."""
    return [*module.split("."), "__init__"][1]


def rank(module: str) -> int:
    assert place(module) in RANKS, f"{module} has no rank yet: give it one in RANKS"
    return RANKS[place(module)]


def within(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def test_modules_import_lower_ranks_or_their_own_folder() -> None:
    assert [
        f"{module}:{line} imports {target}"
        for module, (target, line, _) in own_imports()
        if place(module) != place(target) and rank(module) <= rank(target)
    ] == []


def test_no_import_goes_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, (target, _, inside_function) in own_imports():
        if not inside_function:
            graph.setdefault(module, set()).add(target)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_own_modules_are_imported_at_the_top() -> None:
    assert [
        f"{module}:{line} imports {target} inside a function"
        for module, (target, line, inside_function) in own_imports()
        if inside_function and module not in LAZY
    ] == []


def test_servers_know_only_the_neutral_part_of_the_wire() -> None:
    allowed = {"umbel.wire.envelope", "umbel.wire.names", "umbel.wire.times"}
    assert [
        f"{module}:{line} imports {target}"
        for module, (target, line, _) in own_imports()
        if within(module, "umbel.servers") and place(target) == "wire" and target not in allowed
    ] == []


def test_celerys_words_stand_in_wire_only() -> None:
    assert [
        f"{module}:{node.lineno} says {word!r}"
        for module in modules()
        if place(module) not in ("wire", "settings")  # whose table has Celery's defaults
        for node in _literals(tree_of(module))
        for word in CELERY_WORDS
        if word in str(node.value)
    ] == []


def _literals(tree: ast.Module) -> Iterator[ast.Constant]:
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node


def test_each_driver_is_imported_in_one_place() -> None:
    assert [
        f"{module}:{line} imports {target}"
        for module in modules()
        for target, line, _ in imports(module)
        if (driver := target.split(".")[0]) in DRIVERS and not within(module, DRIVERS[driver])
    ] == []


def test_nothing_depends_on_the_testing_kit() -> None:
    assert [
        f"{module}:{line}"
        for module, (target, line, _) in own_imports()
        if place(target) == "testing" and place(module) != "testing"
    ] == []


def test_import_umbel_loads_no_driver_no_worker_and_no_asyncio() -> None:
    script = "import sys, umbel; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = done.stdout.split()
    unwanted = {*DRIVERS, "asyncio", "umbel.worker", "umbel.web", "umbel.cli", "umbel.testing"}
    assert unwanted.intersection(loaded) == set()


def test_only_the_clock_tells_time() -> None:
    calls = {"time", "time_ns", "monotonic", "monotonic_ns", "sleep"}
    assert [
        f"{module}:{node.lineno} uses time.{node.attr}"
        for module in modules()
        if module != "umbel.clock"
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and node.attr in calls
        if isinstance(node.value, ast.Name) and node.value.id == "time"
    ] == []


def test_time_is_not_imported_by_halves() -> None:
    assert [
        f"{module}:{node.lineno}"
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and node.module == "time"
    ] == []


def test_files_can_be_read_in_one_go() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in modules().items()}
    assert {module: length for module, length in lengths.items() if length > 600} == {}


def test_every_except_says_what_it_expects() -> None:
    assert [
        f"{module}:{node.lineno}"
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ] == []
