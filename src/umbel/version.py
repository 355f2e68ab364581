"""Which umbel this is, and what it runs with."""

from __future__ import annotations

VERSION = "0.1.0.dev0"
#: Libraries whose versions matter, by the names they are installed under.
_LIBRARIES = (
    "redis",
    "hiredis",
    "pika",
    "psycopg",
    "msgpack",
    "PyYAML",
    "zstandard",
    "pydantic",
    "celery",
    "kombu",
)


def software() -> dict[str, str]:
    """Return the versions of umbel, Python and the libraries that are installed, and the system."""
    import platform  # noqa: PLC0415 -- reports only
    from importlib import metadata  # noqa: PLC0415 -- slow to import

    found = {
        "umbel": VERSION,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
    }
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
