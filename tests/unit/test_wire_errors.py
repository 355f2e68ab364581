"""Exceptions on the wire: what leaves, what comes back, and what never does."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from umbel import exceptions
from umbel.exceptions import BackendError, SecurityError, TaskError
from umbel.wire.errors import exception_from_wire, exception_to_wire


class PlainError(Exception):
    class InnerError(Exception):
        """An exception within a class, as Django's models have them."""


class PickyError(Exception):
    def __init__(self, account: str, *, amount: int) -> None:
        super().__init__(account)
        self.amount = amount


class MuteError(PickyError):
    def __str__(self) -> str:
        return f"{self.amount}"


def wire(kind: Any, module: Any, *args: Any) -> dict[str, Any]:
    return {"exc_type": kind, "exc_message": list(args), "exc_module": module}


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (exceptions.NotRegistered("t"), "celery.exceptions"),
        (exceptions.TaskRevokedError("revoked"), "celery.exceptions"),
        (exceptions.ChordError("x"), "celery.exceptions"),
        (exceptions.TimeoutError("x"), "celery.exceptions"),
        (exceptions.MaxRetriesExceededError("x"), "celery.exceptions"),
        (exceptions.Reject("no", requeue=False), "celery.exceptions"),
        (exceptions.WorkerLostError("x"), "billiard.exceptions"),
        (exceptions.TimeLimitExceeded(1), "billiard.exceptions"),
        (exceptions.SoftTimeLimitExceeded(), "billiard.exceptions"),
        (exceptions.Terminated(15), "billiard.exceptions"),
        (exceptions.DecodeError("x"), "kombu.exceptions"),
        (exceptions.ContentDisallowed("x"), "kombu.exceptions"),
        (exceptions.ConnectionLost("x"), "umbel.exceptions"),
        (ValueError("bad", 42), "builtins"),
        (OSError(2, "no such file"), "builtins"),
        (PlainError("x"), __name__),
        (PlainError.InnerError("x"), __name__),
    ],
)
def test_exceptions_come_back_as_their_own_class(error: BaseException, module: str) -> None:
    stored = exception_to_wire(error)
    found = exception_from_wire(stored)
    assert stored["exc_module"] == module
    assert type(found) is type(error)
    assert found.args == error.args


@pytest.mark.parametrize(
    ("module", "name", "cls"),
    [
        ("celery.exceptions", "CeleryError", exceptions.UmbelError),
        ("kombu.exceptions", "OperationalError", exceptions.TransportError),
        ("celery.exceptions", "OperationalError", exceptions.TransportError),
        ("celery.exceptions", "WorkerLostError", exceptions.WorkerLostError),
    ],
)
def test_celerys_classes_become_ours(module: str, name: str, cls: type[Exception]) -> None:
    assert type(exception_from_wire(wire(name, module, "x"))) is cls


def test_arguments_without_a_form_are_shown() -> None:
    stored = exception_to_wire(ValueError("bad", {1}, [object], 5))
    assert stored["exc_message"] == ["bad", "{1}", "[<class 'object'>]", 5]


def test_an_unknown_class_is_invented_once() -> None:
    first, second = (exception_from_wire(wire("ShopError.Closed", "shop.errors")) for _ in "ab")
    cls = type(first)
    assert (cls.__module__, cls.__name__, cls.__qualname__) == (
        "shop.errors",
        "Closed",
        "ShopError.Closed",
    )
    assert type(second) is cls
    assert issubclass(cls, Exception)


def test_a_bare_text_is_one_argument() -> None:
    found = exception_from_wire(
        {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": "x"}
    )
    assert isinstance(found, ValueError)
    assert found.args == ("x",)
    assert exception_from_wire({"exc_type": "ValueError", "exc_module": "builtins"}).args == ()


def test_a_class_that_refuses_its_arguments_keeps_its_place_in_except_clauses() -> None:
    found = exception_from_wire(exception_to_wire(PickyError("A-1", amount=5)))
    assert type(found) is PickyError
    assert found.args == ("A-1",)


def test_a_class_that_cannot_do_without_its_constructor_is_named() -> None:
    found = exception_from_wire(exception_to_wire(MuteError("A-1", amount=5)))
    assert type(found) is Exception
    assert "MuteError('A-1')" in str(found)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "exec"),
        ("builtins", "type"),
        ("builtins", "object"),
        ("sys", "modules"),
        ("sys", "path"),
        ("collections", "OrderedDict"),
    ],
)
def test_only_exception_classes_are_called(module: str, name: str) -> None:
    found = exception_from_wire(wire(name, module, "echo"))
    assert type(found) is SecurityError
    assert f"{module}.{name}" in str(found)


def test_no_hook_of_a_module_or_a_proxy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    module = ModuleType("lazy")
    vars(module)["__getattr__"] = lambda name: pytest.fail(f"asked for {name}")
    module.proxy = Proxy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lazy", module)
    for name in ("Missing", "proxy.Error", "proxy"):
        assert isinstance(exception_from_wire(wire(name, "lazy")), Exception)
    monkeypatch.setitem(sys.modules, "proxied", Proxy())
    assert isinstance(exception_from_wire(wire("Error", "proxied")), Exception)


def test_nothing_is_imported() -> None:
    assert "this" not in sys.modules
    exception_from_wire(wire("Error", "this"))
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "value", [5, "text", [], {}, {"exc_type": 5}, {"exc_type": None}, {"exc_message": "x"}]
)
def test_what_is_no_exception_is_said_to_be_none(value: Any) -> None:
    assert type(exception_from_wire(value)) is BackendError


def test_names_cannot_break_a_terminal_or_the_memory() -> None:
    found = exception_from_wire(wire("x\0\x1b[2J" + "y" * 10_000, "\ud800\n"))
    cls = type(found)
    assert (cls.__module__, len(cls.__qualname__)) == ("??", 200)
    assert cls.__qualname__.isprintable()


def test_an_exception_that_pickle_kept_stays_itself() -> None:
    error = ValueError("x")
    assert exception_from_wire(error) is error


def test_what_celery_had_to_wrap_is_unwrapped() -> None:
    def wrapped(*args: Any) -> BaseException:
        kind, module = "UnpickleableExceptionWrapper", "celery.utils.serialization"
        return exception_from_wire(wire(kind, module, *args))

    assert type(wrapped(__name__, "PickyError", ["A-1"], "text")) is PickyError
    assert type(wrapped("os", "system", ["echo"], "text")) is SecurityError
    assert type(wrapped(5, "Odd", "x", "text")).__name__ == "Odd"
    assert type(wrapped("a", 5, [], "text")) is BackendError
    short = wrapped("short")  # another test may have loaded Celery, and the class with it
    assert "UnpickleableExceptionWrapper" in f"{type(short).__name__}: {short}"


def test_what_would_end_the_reader_comes_back_as_an_ordinary_exception() -> None:
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        stored = exception_to_wire(error)
        assert (stored["exc_module"], stored["exc_type"]) == ("celery.exceptions", "TaskError")
        text = f"the task raised {error!r}"
        found = (exception_from_wire(stored), exception_from_wire(error))
        assert [(type(each), str(each)) for each in found] == [(TaskError, text)] * 2
    foreign = exception_from_wire(wire("SystemExit", "builtins", 3))
    assert isinstance(foreign, TaskError)
    assert "SystemExit(3)" in str(foreign)


def test_an_error_written_in_c_travels_with_its_text() -> None:
    class Order(BaseModel):
        pieces: int

    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"pieces": "many"})
    assert not caught.value.args
    read = exception_from_wire(exception_to_wire(caught.value))
    assert "valid integer" in str(read)
