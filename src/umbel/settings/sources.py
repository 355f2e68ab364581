"""Where settings come from: pyproject.toml, the environment, modules and objects, the program.

Each function returns values that are checked, with the source that ``umbel report`` shows and
errors name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from umbel.exceptions import ImproperlyConfigured
from umbel.project import project_folder
from umbel.settings.table import NAMES, TABLE
from umbel.spelling import suggestion

#: Similarity from which an unknown name is taken for a misspelt one where others may stand too.
_SIMILAR = 0.85
#: What Celery reads from CELERY_… variables by itself.
_CELERY_VARIABLES = ("broker_url", "broker_read_url", "broker_write_url", "result_backend")

#: With a namespace, Celery still reads old names; among the settings of Django these are its.
_OLD_BEGINNINGS = ("CELERY", "BROKER_", "TIME_ZONE")


@dataclass(frozen=True, slots=True)
class Value:
    """What one source says of one setting."""

    value: Any
    source: str


def setting_named(name: str) -> str:
    """Return the name of the setting known by this name; raises ImproperlyConfigured."""
    if name in NAMES:
        return NAMES[name]
    raise ImproperlyConfigured(unknown(name))


def unknown(name: str, source: str = "") -> str:
    """Return what is said of a name that is no setting's."""
    hint = suggestion(name.lower(), TABLE)
    return f"there is no setting {name!r}{hint}" + (f" (from {source})" if source else "")


def parsed(items: Iterable[tuple[str, Any]], source: str, *, line: str = "") -> dict[str, Value]:
    """Check values given by any of their names; of an old and a new one the new one counts.

    ``line`` is not in errors, whose traceback shows it.
    """
    found: dict[str, Value] = {}
    for given, value in sorted(items, key=lambda item: item[0] in TABLE):
        if given not in NAMES:
            raise ImproperlyConfigured(unknown(given, source))
        row = TABLE[NAMES[given]]
        found[row.name] = Value(row.parse(value, source), source + line)
    return found


def running_line() -> str:
    """Say which line of the user's code is running, as the end of a source."""
    frame = sys._getframe()  # noqa: SLF001 -- the inspect module is slow to import
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "umbel":
        frame = frame.f_back
    return f", {frame.f_code.co_filename}, line {frame.f_lineno}"


# --- pyproject.toml


def from_pyproject(start: str) -> dict[str, Value]:
    """Read ``[tool.umbel]`` of the project that this folder belongs to."""
    path = f"{project_folder(start)}/pyproject.toml"
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 -- see project.py
            text = file.read()
    except OSError:
        return {}
    except UnicodeDecodeError as error:
        raise ImproperlyConfigured(f"{path} cannot be read: {error}") from error
    if "tool.umbel" not in text:
        return {}
    import tomllib  # noqa: PLC0415 -- few projects have such a section

    try:
        section = tomllib.loads(text).get("tool", {}).get("umbel", {})
    except tomllib.TOMLDecodeError as error:
        raise ImproperlyConfigured(f"{path} cannot be read: {error}") from error
    found: dict[str, Value] = {}
    for name, value in section.items():
        found |= parsed([(name, value)], f"{path}{_line_of(name, text)}")
    return found


def _line_of(name: str, text: str) -> str:
    key = re.compile(rf"\s*(\[\s*tool\.umbel\.)?[\"']?{re.escape(name)}[\"']?\s*[=.\]]")
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if inside and key.match(line):
            return f", line {number}"
        if line.startswith("["):
            inside = line.startswith("[tool.umbel")
            if inside and key.match(line):
                return f", line {number}"
    return ""


# --- the environment


def from_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    """Read ``UMBEL_<SETTING>``, and what Celery reads by itself."""
    found: dict[str, Value] = {}
    for name in _CELERY_VARIABLES:
        variable = f"CELERY_{name.upper()}"
        if environ.get(variable):
            found[name] = _read(name, variable, environ)
    for variable in environ:
        if not variable.startswith("UMBEL_"):
            continue
        name = variable.removeprefix("UMBEL_").lower()
        if name in TABLE:
            found[name] = _read(name, variable, environ)
        elif suggestion(name, TABLE, _SIMILAR):
            raise ImproperlyConfigured(unknown(name, f"the variable {variable}"))
    return found


def _read(name: str, variable: str, environ: Mapping[str, str]) -> Value:
    source = f"the variable {variable}"
    return Value(TABLE[name].parse_text(environ[variable], source), source)


# --- modules, classes, objects, dicts


def from_object(found: object, namespace: str | None, source: str) -> dict[str, Value]:
    """Read what is named like a setting; with a namespace, what begins with it."""
    return parsed(_settings_in(found, namespace), source)


def _settings_in(found: object, namespace: str | None) -> Iterator[tuple[str, Any]]:
    prefix = f"{namespace.rstrip('_')}_" if namespace else ""
    if isinstance(found, Mapping):
        for given, value in found.items():
            # What has no namespace was made for us: it has nothing but settings in it.
            name = _meant(given, prefix) if prefix else given
            if name:
                yield name, value
        return
    for given in dir(found):
        name = "" if given.startswith("_") else _meant(given, prefix)
        if name and not isinstance(value := getattr(found, given), ModuleType):
            yield name, value


def _meant(given: str, prefix: str) -> str:
    """Return what must be a setting's name, maybe a misspelt one; "" = this is something else."""
    name = _without(prefix, given)
    if name in NAMES:
        return name
    if prefix and given in NAMES and (given in TABLE or given.startswith(_OLD_BEGINNINGS)):
        return given
    return name if name and suggestion(name.lower(), TABLE, _SIMILAR) else ""


def _without(prefix: str, given: str) -> str:
    """Return a name without its namespace; "" if it is in none or another."""
    if not given.upper().startswith(prefix.upper()):
        return ""
    name = given[len(prefix) :]
    return name.lower() if prefix and name.isupper() else name
