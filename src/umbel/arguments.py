"""Whether a call's arguments fit the task's function, told at the caller before anything is sent.

``inspect.Signature.bind`` is right but costs more than all else in a call. What it would say is
decided here from numbers and sets computed once; it is asked only for its words, when the answer is
no.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Parameters:
    """The parameters of one function.

    A call without keywords and with ``least`` to ``most`` positional arguments fits; for any other
    ask ``check``.
    """

    __slots__ = (
        "_names",
        "_required",
        "_required_keywords",
        "_signature",
        "_taken",
        "least",
        "most",
    )

    def __init__(self, signature: inspect.Signature, name: str) -> None:
        self._signature = (signature, name)
        parameters = list(signature.parameters.values())
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        #: Names of positional parameters, in order; None = cannot be given by name.
        self._names = tuple(None if p.kind is p.POSITIONAL_ONLY else p.name for p in positional)
        required = [p.default is p.empty for p in positional]
        #: How many of the first must be there, by position or by name.
        self._required = len(required) - required[::-1].index(True) if True in required else 0
        self._required_keywords = frozenset(p.name for p in keyword_only if p.default is p.empty)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        #: Names that may be given; None = any.
        self._taken = (
            None
            if takes_any
            else frozenset(name for name in self._names if name) | {p.name for p in keyword_only}
        )
        many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        #: With required keywords no call without keywords fits.
        self.least = self._required if not self._required_keywords else 1 << 60
        self.most = 1 << 59 if many else len(positional)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, in the words of a plain call, unless the arguments fit."""
        given = len(args)
        if (
            given <= self.most
            and self._required_keywords <= kwargs.keys()
            and (self._taken is None or kwargs.keys() <= self._taken)
            and kwargs.keys().isdisjoint(filter(None, self._names[:given]))
            and kwargs.keys() >= set(self._names[given : self._required])
        ):
            return
        signature, name = self._signature
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None


def parameters_of(function: Callable[..., Any], name: str) -> Parameters | None:
    """Return a function's parameters; None when Python cannot tell them."""
    try:
        return Parameters(inspect.signature(function), name)
    except (TypeError, ValueError):
        return None
