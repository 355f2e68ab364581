"""The same project on each broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.projects import Project

BROKERS = ("sqlite", "redis", "rabbitmq")


def project_on(broker: str, folder: Path, request: pytest.FixtureRequest, tasks: str) -> Project:
    """Return a project on this broker; "rabbitmq+redis" is one whose results are elsewhere."""
    project = Project(folder, tasks, UMBEL_APP="tasks")
    broker, _, store = broker.partition("+")
    if broker != "sqlite":
        project.environment["UMBEL_BROKER_URL"] = request.getfixturevalue(f"{broker}_url")
    if store:
        project.environment["UMBEL_RESULT_BACKEND"] = request.getfixturevalue(f"{store}_url")
    return project
