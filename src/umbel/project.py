"""Which folder is the project that this process works for."""

from __future__ import annotations

from pathlib import Path

#: What marks the folder of a project.
PROJECT_MARKS = ("pyproject.toml", "setup.py", "manage.py", ".git")


def project_folder(start: Path) -> Path:
    """Return the nearest folder from ``start`` upwards that looks like a project, else it."""
    resolved = start.resolve()
    for folder in (resolved, *resolved.parents):
        if any((folder / mark).exists() for mark in PROJECT_MARKS):
            return folder
    return resolved
