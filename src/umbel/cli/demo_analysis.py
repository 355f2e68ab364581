"""What a module's source contains: lines, functions, nesting, imports. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeAlias, TypedDict

_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTABLE = (ast.Module, ast.ClassDef, *_FUNCTIONS)
#: Statements that indent what is in them.
_BLOCKS = (
    ast.ClassDef,
    *_FUNCTIONS,
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)
#: What adds a path through a function.
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.comprehension,
    ast.match_case,
    ast.BoolOp,
)


class Function(TypedDict):
    """One function or method."""

    #: Qualified by the classes and functions it is in.
    name: str
    line: int
    lines: int
    #: Ways through it: 1, and 1 for each branch.
    branches: int
    #: Blocks inside of blocks in it, at the deepest place.
    depth: int


class Lines(TypedDict):
    """How many lines there are of each kind."""

    total: int
    code: int
    comments: int
    docstrings: int
    blank: int


class Facts(TypedDict):
    """What is in one module."""

    lines: Lines
    functions: int
    classes: int
    #: Modules, classes and functions: how many there are, and how many have a docstring.
    documentable: int
    documented: int
    #: Functions with at least one annotation.
    annotated: int
    longest: Function | None
    deepest: Function | None
    most_branches: Function | None
    #: Top-level modules that it imports.
    imports: list[str]


def survey(source: str) -> Facts:
    """Count what is in a module; raises SyntaxError."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    documentable = [node for node in nodes if isinstance(node, _DOCUMENTABLE)]
    docstrings = [text for node in documentable for text in _docstring(node)]
    definitions = list(_definitions(tree))
    functions = [_function(name, node) for name, node in definitions]
    return {
        "lines": _lines(source, nodes, docstrings),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "documentable": len(documentable),
        "documented": len(docstrings),
        "annotated": sum(_is_annotated(node) for _, node in definitions),
        "longest": max(functions, key=lambda each: each["lines"], default=None),
        "deepest": max(functions, key=lambda each: each["depth"], default=None),
        "most_branches": max(functions, key=lambda each: each["branches"], default=None),
        "imports": sorted(set(_imports(nodes))),
    }


def _docstring(node: ast.Module | ast.ClassDef | _Definition) -> list[ast.Constant]:
    match node.body[:1]:
        case [ast.Expr(value=ast.Constant(value=str()) as text)]:
            return [text]
        case _:
            return []


def _lines(source: str, nodes: list[ast.AST], docstrings: list[ast.Constant]) -> Lines:
    lines = source.removesuffix("\n").split(
        "\n"
    )  # as ast counts; splitlines cuts at form feeds too
    in_docstrings = {number for text in docstrings for number in _span(text)}
    in_texts = {number for node in nodes if _is_text(node) for number in _span(node)}
    free = [text.strip() for number, text in enumerate(lines, 1) if number not in in_texts]
    blank = free.count("")
    comments = sum(text.startswith("#") for text in free)
    return {
        "total": len(lines),
        "code": len(lines) - blank - comments - len(in_docstrings),
        "comments": comments,
        "docstrings": len(in_docstrings),
        "blank": blank,
    }


def _is_text(node: ast.AST) -> bool:
    """Tell whether blank lines and ``#`` in it are no blank lines and comments."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _span(node: ast.AST) -> range:
    first: int = getattr(node, "lineno", 1)
    return range(first, (getattr(node, "end_lineno", None) or first) + 1)


def _definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Definition]]:
    """Yield the functions below a node, each with its qualified name."""
    for child in _statements(node):
        name = prefix
        if isinstance(child, ast.ClassDef | _Definition):
            name = f"{prefix}{child.name}."
        if isinstance(child, _Definition):
            yield name.removesuffix("."), child
        yield from _definitions(child, name)


def _function(name: str, node: _Definition) -> Function:
    return {
        "name": name,
        "line": node.lineno,
        "lines": len(_span(node)),
        "branches": 1 + sum(isinstance(each, _BRANCHES) for each in ast.walk(node)),
        "depth": _depth(node) - 1,
    }


def _depth(node: ast.AST) -> int:
    """Return how many blocks lie inside of each other, this one included."""
    deepest = max(map(_depth, _statements(node)), default=0)
    return deepest + isinstance(node, _BLOCKS)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements right below this one; an elif is beside its if, not in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(node, ast.If) and node.orelse == [child]:
            yield from _statements(child)
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child


def _is_annotated(node: _Definition) -> bool:
    arguments = node.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return node.returns is not None or any(each.annotation is not None for each in every)


def _imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
