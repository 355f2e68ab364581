"""Tasks whose arguments and results are Pydantic models: ``@app.task(pydantic=True)``.

A model travels as a dict. Where a parameter is annotated with a model, the worker makes one of what
came; a model that is passed or returned is dumped. Nothing here imports Pydantic: who has models
has it imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


class _Models:
    """Converts the arguments and results of one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        strict: bool | None,
        context: Mapping[str, Any] | None,
        dump_options: Mapping[str, Any] | None,
    ) -> None:
        self._function = function
        self._signature = inspect.signature(function)
        self._strict = strict
        self._context = context
        self._dump_options = dump_options or {}
        self._models: dict[str, Any] | None = None

    def make(self, args: Any, kwargs: Any) -> inspect.BoundArguments:
        if self._models is None:  # not earlier: annotations may name what is defined later
            hints = get_type_hints(self._function)
            self._models = {name: model for name, hint in hints.items() if (model := _model(hint))}
        bound = self._signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            model = self._models.get(name)
            if model is not None and value is not None:
                bound.arguments[name] = model.model_validate(
                    value, strict=self._strict, context=self._context
                )
        return bound

    def dump(self, value: Any) -> Any:
        return value.model_dump(**self._dump_options) if _is_model(type(value)) else value


def with_models(
    function: Callable[..., Any],
    *,
    strict: bool | None = None,
    context: Mapping[str, Any] | None = None,
    dump_options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Wrap a function so that it takes and returns what models are dumped to."""
    models = _Models(function, strict=strict, context=context, dump_options=dump_options)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = models.make(args, kwargs)
        return models.dump(function(*bound.args, **bound.kwargs))

    @wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        bound = models.make(args, kwargs)
        running: Coroutine[Any, Any, Any] = function(*bound.args, **bound.kwargs)
        return models.dump(await running)

    return run_async if inspect.iscoroutinefunction(function) else run


def dump(value: Any) -> Any:
    """Return what a model travels as; anything else as it is."""
    return value.model_dump(mode="json") if _is_model(type(value)) else value


def _model(annotation: Any) -> Any:
    """Return the model that an annotation names, also as ``Model | None``."""
    if get_origin(annotation) in (Union, UnionType):
        named = [each for each in get_args(annotation) if each is not NoneType]
        annotation = named[0] if len(named) == 1 else None
    return annotation if isinstance(annotation, type) and _is_model(annotation) else None


def _is_model(cls: type) -> bool:
    return hasattr(cls, "model_validate") and hasattr(cls, "model_dump")
