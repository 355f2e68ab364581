"""The same project on each broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.projects import Project

BROKERS = ("sqlite", "redis", "rabbitmq")


def project_on(broker: str, folder: Path, request: pytest.FixtureRequest, tasks: str) -> Project:
    """Return a project whose ``tasks.py`` finds its broker in BROKER_URL."""
    project = Project(folder)
    if broker != "sqlite":
        project.environment["UMBEL_BROKER_URL"] = request.getfixturevalue(f"{broker}_url")
    project.environment["UMBEL_APP"] = "tasks"
    project.write("tasks.py", tasks)
    return project
