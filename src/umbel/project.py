"""Which folder is the project that this process works for."""

from __future__ import annotations

import os

#: What marks the folder of a project.
PROJECT_MARKS = ("pyproject.toml", "setup.py", "manage.py", ".git")


def project_folder(start: str) -> str:
    """Return the nearest folder from ``start`` upwards that looks like a project, else it."""
    # os.path, because every program imports this, and pathlib brings urllib and more.
    start = folder = os.path.realpath(start)
    while True:
        if any(os.path.exists(os.path.join(folder, mark)) for mark in PROJECT_MARKS):  # noqa: PTH110, PTH118 -- see above
            return folder
        parent = os.path.dirname(folder)  # noqa: PTH120 -- see above
        if parent == folder:
            return start
        folder = parent
