"""An application's configuration: a mutable view over frozen snapshots.

Values come in layers; a later one wins:

    defaults < [tool.umbel] in pyproject.toml < config_from_object < the program < UMBEL_… variables
             < the command line

"The program" is ``app.conf.x = …``, ``app.conf.update(…)`` and the arguments of ``Umbel(…)``.
Every change makes a new ``Snapshot`` with the next generation; what was compiled from an older one
notices by ``snapshot is not conf.snapshot`` and is compiled again. Nothing is read from files,
modules or the environment before the first value is asked for, so that a program may set things up
first; from then on those layers stay as they are. Any thread may read and change it.
"""

# ruff: noqa: FBT001, FBT002 -- signatures are Celery's

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from umbel.exceptions import ImproperlyConfigured
from umbel.serializers import warn_of_pickle
from umbel.settings.sources import (
    Value,
    from_environment,
    from_object,
    from_pyproject,
    parsed,
    running_line,
    setting_named,
    unknown,
)
from umbel.settings.table import NAMES, TABLE, Settings

#: Layers, the strongest last.
LAYERS = ("defaults", "pyproject", "object", "program", "environment", "command line")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All values at one time."""

    generation: int
    values: Mapping[str, Any]
    #: Setting -> where its value comes from; defaults are absent.
    sources: Mapping[str, str]


class Config(Settings):
    """The settings of one application, as attributes and as a mapping. Old names are understood."""

    __slots__ = (
        "_changing",
        "_environ",
        "_folder",
        "_layers",
        "_loaded",
        "_made",
        "_own",
        "_pending",
        "snapshot",
    )

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        folder: str | None = None,
    ) -> None:
        #: None until the first value is asked for; then the newest. Compare it by identity.
        self.snapshot: Snapshot | None = None
        self._environ = environ
        self._folder = folder
        self._loaded = False
        self._changing = threading.RLock()
        #: Snapshots made so far.
        self._made = 0
        #: Defaults that may be changed where they are: conf.beat_schedule["x"] = ….
        self._own = {name: {**row.default} for name, row in TABLE.items() if row.default == {}}
        self._layers: dict[str, dict[str, Value]] = {layer: {} for layer in LAYERS}
        self._pending: Callable[[], dict[str, Value]] | None = None
        if values:
            self.update(values)

    # --- reading

    def current(self) -> Snapshot:
        """Return the newest snapshot, loading the configuration if that was not done yet."""
        return self.snapshot or self._load()

    @property
    def generation(self) -> int:
        """Return the number of the newest snapshot; it grows with every change."""
        return self.current().generation

    def value_of(self, name: str) -> Any:
        """Return the effective value of the setting of exactly this name."""
        return (self.snapshot or self._load()).values[name]

    if not TYPE_CHECKING:  # for type checkers there are the settings, and nothing else

        def __getattr__(self, name: str) -> NoReturn:
            """Say what was meant; called only for what is no attribute."""
            raise AttributeError(unknown(name))

    def __getitem__(self, name: str) -> Any:
        """Return a setting by any of its names."""
        return self.value_of(setting_named(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting by any of its names, or ``default`` if there is no such setting."""
        return self.value_of(NAMES[name]) if name in NAMES else default

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a setting."""
        return name in NAMES

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all settings."""
        return iter(TABLE)

    def __len__(self) -> int:
        """Return the number of settings."""
        return len(TABLE)

    def keys(self) -> KeysView[str]:
        """Return the names of all settings."""
        return self.current().values.keys()

    def values(self) -> ValuesView[Any]:
        """Return the values of all settings."""
        return self.current().values.values()

    def items(self) -> ItemsView[str, Any]:
        """Return names and values of all settings."""
        return self.current().values.items()

    def source_of(self, name: str) -> str:
        """Say where a setting's value comes from."""
        return self.current().sources.get(setting_named(name), "default")

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return settings and values, secrets masked: those that were set, or all of them."""
        snapshot = self.current()
        return {
            name: TABLE[name].masked(value) if censored else value
            for name, value in snapshot.values.items()
            if with_defaults or name in snapshot.sources or value != TABLE[name].default
        }

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return ``table`` as text, a line each."""
        shown = self.table(with_defaults, censored)
        return "\n".join(f"{name}: {value!r}" for name, value in shown.items())

    # --- changing

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a setting by any of its names; a misspelt one is an error."""
        if name in Config.__slots__ or name in TABLE:
            super().__setattr__(name, value)
        else:
            self.assign(setting_named(name), value)

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a setting by any of its names."""
        self.assign(setting_named(name), value)

    def assign(self, name: str, value: Any) -> None:
        """Set the setting of exactly this name."""
        self.update({name: value})

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Set many settings, by any of their names; all or, if one is wrong, none."""
        given = {**(values or {}), **more}
        self._change("program", parsed(given.items(), "the program", line=running_line()))

    def set_layer(self, layer: str, values: Mapping[str, Any], *, source: str) -> None:
        """Set settings in one of the layers."""
        self._change(layer, parsed(values.items(), source))

    @contextmanager
    def temporarily(self, values: Mapping[str, Any], *, source: str) -> Generator[None]:
        """Set these for a block, and undo at its end all that was changed in it.

        In the block the environment's UMBEL_ variables do not count.
        """
        self.current()  # so that nothing is loaded in the block and lost at its end
        with self._changing:
            before = {layer: dict(found) for layer, found in self._layers.items()}
        try:
            with self._changing:
                self._layers["environment"] = {}
                self.set_layer("program", values, source=source)
            yield
        finally:
            with self._changing:
                self._layers = before
                self.snapshot = self._compile()

    def load_object(
        self,
        target: object,
        *,
        namespace: str | None = None,
        force: bool = False,
        silent: bool = False,
    ) -> None:
        """Read settings from a module, class, dict, object, or the dotted name of one.

        A name is imported when the first setting is asked for, unless ``force``; if ``silent``, a
        module need not exist. What was loaded so before is replaced. With a namespace only names
        that begin with it count.
        """

        def load() -> dict[str, Value]:
            if not isinstance(target, str):
                return from_object(target, namespace, _title(target))
            try:
                return from_object(import_named(target), namespace, target)
            except ImproperlyConfigured as error:
                if silent and _is_missing(target, error.__cause__):
                    return {}
                raise

        if self._loaded or force or not isinstance(target, str):
            self._pending = None
            self._layers["object"] = {}
            self._change("object", load())
        else:
            self._pending = load

    def _change(self, layer: str, values: Mapping[str, Value]) -> None:
        with self._changing:
            self._layers[layer] = {**self._layers[layer], **values}
            if self.snapshot is not None:
                self.snapshot = self._compile()

    # --- loading

    def _load(self) -> Snapshot:
        with self._changing:
            if self.snapshot is not None:
                return self.snapshot
            # Taken out first: a module that asks for a setting while it is imported sees what is
            # known so far instead of importing itself again.
            pending, self._pending = self._pending, None
            try:
                self._read_sources(pending)
            except BaseException:
                self._pending, self.snapshot = pending, None
                raise
            snapshot = self.snapshot = self._compile()
            return snapshot

    def _read_sources(self, pending: Callable[[], dict[str, Value]] | None) -> None:
        if pending is not None:
            self._layers["object"] = pending()
        if not self._loaded:
            environ = os.environ if self._environ is None else self._environ
            folder = self._folder or os.getcwd()  # noqa: PTH109 -- see project.py
            self._layers["environment"] = from_environment(environ)
            self._layers["pyproject"] = from_pyproject(folder)
            self._loaded = True

    def _compile(self) -> Snapshot:
        values: dict[str, Any] = {name: row.default for name, row in TABLE.items()} | self._own
        sources: dict[str, str] = {}
        for layer in LAYERS:
            for name, each in self._layers[layer].items():
                values[name] = each.value
                sources[name] = each.source
        warn_of_pickle("accept_content", values["accept_content"])
        warn_of_pickle("task_serializer", (values["task_serializer"],))
        warn_of_pickle("result_serializer", (values["result_serializer"],))
        self._made += 1
        return Snapshot(self._made, MappingProxyType(values), MappingProxyType(sources))


def _title(target: object) -> str:
    name = getattr(target, "__name__", None)
    return str(name) if name else f"a {type(target).__name__}"


def import_named(name: str) -> Any:
    """Return the module ``a.b``, or what ``a.b:c`` or ``a.b.c`` names in it."""
    module_name, _, attribute = name.partition(":")
    try:
        if attribute:
            return getattr(import_module(module_name), attribute)
        return _imported(module_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ImproperlyConfigured(f"cannot import {name!r}: {error}") from error


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        parent, _, last = name.rpartition(".")
        if not parent or error.name != name:
            raise
        return getattr(import_module(parent), last)


def _is_missing(name: str, cause: BaseException | None) -> bool:
    """Tell whether it was the module of this name that was not found, or a package it is in."""
    module_name = name.partition(":")[0]
    return isinstance(cause, ModuleNotFoundError) and f"{module_name}.".startswith(f"{cause.name}.")
