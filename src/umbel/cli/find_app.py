"""From ``-A NAME`` to an application, by Celery's rule.

proj:attribute       that attribute
proj                 the module's ``app``, ``celery``, ``umbel`` or ``celery_app``; else, in a
                     package, what its module ``celery`` or ``umbel`` has; else the only application
                     in it
proj.celery, …       any module likewise
proj.attribute       that attribute, if there is no such module
"""

from __future__ import annotations

import pkgutil
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from umbel.app import Umbel
from umbel.spelling import suggestion

#: Names under which a module's application is looked for first.
ATTRIBUTES = ("app", "celery", "umbel", "celery_app")
#: Modules of a package in which its application is looked for.
SUBMODULES = ("celery", "umbel")

_OURS = str(Path(__file__).parents[1])


class AppNotFound(click.UsageError):
    """The name leads to no application."""


class AppBroken(click.ClickException):
    """The application's module raised an error when it was imported."""


def find_app(name: str) -> Umbel:
    """Return the application of this name; raises AppNotFound or AppBroken."""
    module_name, colon, attribute = name.partition(":")
    _check_name(name, module_name)
    module = imported(module_name)
    if module is not None:
        return _attribute(module, attribute, name) if colon else _in_module(module, name)
    parent, _, last = module_name.rpartition(".")
    module = imported(parent) if parent and not colon else None
    if module is not None and hasattr(module, last):
        return _attribute(module, last, name)
    raise AppNotFound(_missing(module_name))


def _check_name(name: str, module_name: str) -> None:
    if module_name.endswith(".py") or "/" in module_name:
        path = Path(module_name).with_suffix("")
        hint = ".".join(part for part in path.parts if part not in (".", "/"))
        raise AppNotFound(f"-A {name}: expected a module's name, not a file's: -A {hint}")
    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise AppNotFound(f"-A {name}: expected module or module:attribute")


def imported(name: str) -> ModuleType | None:
    """Import a module; None if there is none of this name. Raises AppBroken."""
    with importing(repr(name)):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(f"{error.name}.")):
                return None
            raise


@contextmanager
def importing(what: str) -> Generator[None]:
    """Turn whatever a module raises while the block imports it into AppBroken."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a module may raise anything, scripts even exit
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        name = type(error).__name__
        raise AppBroken(f"cannot import {what}: {name}: {text}{_culprit(error)}") from error


def _culprit(error: BaseException) -> str:
    """Name the line to look at: the last one of the project, else the last that is not ours."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen ", _OURS))
    ]
    folder = f"{Path.cwd()}/"
    own = [
        frame
        for frame in frames
        if frame.filename.startswith(folder) and "/site-packages/" not in frame.filename
    ]
    last = (own or frames)[-1:]
    return f" ({last[0].filename}, line {last[0].lineno})" if last else ""


def _missing(name: str) -> str:
    folder = Path.cwd()
    top = name.partition(".")[0]
    near = [each.name for each in pkgutil.iter_modules([str(folder)])]
    hint = "" if top in near else suggestion(top, near)
    return f"-A {name}: there is no module {name!r} in {folder} or on sys.path{hint}"


def _attribute(module: ModuleType, path: str, name: str) -> Umbel:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            hint = suggestion(part, [each for each, _ in applications(module)] or vars(found))
            raise AppNotFound(f"-A {name}: {module.__name__!r} has no attribute {path!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, ModuleType):
        return _in_module(found, name)
    if not isinstance(found, Umbel):
        raise AppNotFound(f"-A {name}: expected an Umbel application, got {_kind(found)}")
    return found


def _in_module(module: ModuleType, name: str) -> Umbel:
    known = dict(applications(module))
    for attribute in ATTRIBUTES:
        if attribute in known:
            return known[attribute]
    if hasattr(module, "__path__"):
        for part in SUBMODULES:
            below = imported(f"{module.__name__}.{part}")
            if below is not None:
                return _in_module(below, name)
    return _only(module, known, name)


def _only(module: ModuleType, known: dict[str, Umbel], name: str) -> Umbel:
    if len(set(map(id, known.values()))) == 1:
        return next(iter(known.values()))
    if known:
        names = ", ".join(f"-A {module.__name__}:{each}" for each in known)
        raise AppNotFound(f"-A {name}: it has several applications, say which: {names}")
    other = next((each for each in ATTRIBUTES if hasattr(module, each)), None)
    if other is not None and not isinstance(getattr(module, other), ModuleType):
        kind = _kind(getattr(module, other))
        raise AppNotFound(
            f"-A {name}: expected an Umbel application, {module.__name__}.{other} is {kind}"
        )
    raise AppNotFound(f"-A {name}: there is no Umbel application in {_place(module)}")


def applications(module: ModuleType) -> list[tuple[str, Umbel]]:
    """Return the applications that a module has, by name."""
    return [(name, each) for name, each in vars(module).items() if isinstance(each, Umbel)]


def _kind(value: Any) -> str:
    cls = type(value)
    name = (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
    return f"an object of class {name}"


def _place(module: ModuleType) -> str:
    found = sys.modules[module.__name__].__file__
    return found or f"the folder {module.__name__!r}"
