"""Exceptions on the wire: ``{"exc_type": ..., "exc_message": [...], "exc_module": ...}``.

Whoever reaches the result store can write such an object, so a name in it is looked up in modules
already imported, in plain dictionaries (no attribute hook runs), and only exception classes are
called. What would end the program that raises it again (SystemExit, KeyboardInterrupt) travels as a
TaskError that says so, and is read as one if somebody else has written it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

from umbel.exceptions import BackendError, EncodeError, SecurityError, TaskError
from umbel.serializers import json_dumps
from umbel.wire.names import EXCEPTION_CLASSES, EXCEPTION_NAMES
from umbel.wire.saferepr import bounded_repr

#: What Celery stores instead of an exception that pickle cannot copy: module, name, args, text.
_WRAPPER = ("celery.utils.serialization", "UnpickleableExceptionWrapper")
#: Characters of a name; longer ones are nobody's.
_NAME_LIMIT = 200


def exception_to_wire(
    error: BaseException, dumps: Callable[[Any], bytes] = json_dumps
) -> dict[str, Any]:
    """Return the exception as Celery's results show it.

    Arguments that ``dumps`` refuses are shown by their repr.
    """
    error = ordinary(error)
    cls = type(error)
    module, name = EXCEPTION_NAMES.get(cls) or (cls.__module__, cls.__qualname__)
    return {
        "exc_type": name,
        "exc_message": _encodable(_arguments(error), dumps),
        "exc_module": module,
    }


def _arguments(error: BaseException) -> tuple[Any, ...]:
    """Return its args; of a class written in C that keeps its text elsewhere, the text."""
    if error.args or isinstance(type(error).__str__, FunctionType):
        return error.args
    try:
        text = str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 -- then the name has to do
        return ()
    return (text,) if text else ()


def _encodable(args: tuple[Any, ...], dumps: Callable[[Any], bytes]) -> list[Any]:
    try:
        dumps(args)
    except EncodeError:
        return [_encodable_one(arg, dumps) for arg in args]
    return list(args)


def _encodable_one(arg: Any, dumps: Callable[[Any], bytes]) -> Any:
    try:
        dumps(arg)
    except EncodeError:
        return bounded_repr(arg)
    return arg


def ordinary(error: BaseException) -> Exception:
    """Return the exception, or a TaskError in place of one that ``except Exception`` lets pass."""
    if isinstance(error, Exception):
        return error
    return TaskError(f"the task raised {bounded_repr(error, _NAME_LIMIT)}")


def exception_from_wire(value: Any) -> Exception:
    """Return the exception that a result holds; never raises.

    Its own class, if its module is imported here; else a new class of that name. For a name that is
    no exception class the exception returned is a SecurityError.
    """
    if isinstance(value, BaseException):
        return ordinary(value)
    if not isinstance(value, dict) or not isinstance(value.get("exc_type"), str):
        return BackendError(f"the stored result is no exception: {bounded_repr(value, 200)}")
    name, module = value["exc_type"], value.get("exc_module")
    message = value.get("exc_message", ())
    args = tuple(message) if isinstance(message, (list, tuple)) else (message,)
    if (module, name) == _WRAPPER and len(args) >= 3:
        module, name, inner = args[:3]
        args = tuple(inner) if isinstance(inner, (list, tuple)) else (inner,)
    return ordinary(_rebuilt(module, name, args))


def _rebuilt(module: Any, name: Any, args: tuple[Any, ...]) -> BaseException:
    if not isinstance(name, str):
        return BackendError(f"the stored result is no exception: {bounded_repr(name, 200)}")
    if not isinstance(module, str):
        module = "celery.exceptions"
    cls = _find(module, name) or _invented(module[:_NAME_LIMIT], name[:_NAME_LIMIT])
    if not issubclass(type(cls), type) or not issubclass(cls, BaseException):
        shown = bounded_repr(f"{module}.{name}", _NAME_LIMIT)
        return SecurityError(f"expected the name of an exception class, got {shown}")
    return _made(cls, args)


def _find(module: str, name: str) -> Any:
    own = EXCEPTION_CLASSES.get((module, name))
    if own is not None:
        return own
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        if found is None:
            return None
        found = _attribute(found, part)
    return found


def _attribute(owner: Any, name: str) -> Any:
    """Return an attribute of a module or a class from their dictionaries; None = there is none."""
    kind = type(owner)  # not isinstance: a proxy lies to it
    if issubclass(kind, ModuleType):
        return vars(owner).get(name)
    if issubclass(kind, type):
        return next((vars(cls)[name] for cls in owner.__mro__ if name in vars(cls)), None)
    return None


@lru_cache(maxsize=256)
def _invented(module: str, name: str) -> type[Exception]:
    """Make a class for an exception that this process does not know; the same one each time."""
    shown = _printable(name) or "Exception"
    scope = {"__module__": _printable(module), "__qualname__": shown}
    return type(shown.rpartition(".")[2] or shown, (Exception,), scope)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _made(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Call the class. Where its constructor refuses, do without; else say what it was."""
    for make in (_constructed, _unconstructed):
        try:
            error = make(cls, args)
            str(error)
        except Exception:  # noqa: BLE001, S112 -- constructors of users take and raise anything
            continue
        if isinstance(error, BaseException):
            return error
    shown = ", ".join(bounded_repr(arg) for arg in args)
    return Exception(f"{cls.__module__}.{cls.__qualname__}({shown})")


def _constructed(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    return cls(*args)


def _unconstructed(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make the exception as unpickling would begin: its class and args, none of its attributes."""
    return BaseException.__new__(cls, *args)
