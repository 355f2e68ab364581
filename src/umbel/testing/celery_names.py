"""Fixtures under the names of Celery's plugin, for a test suite that moves.

It replaces Celery's own plugin, so one line of a ``conftest.py`` changes:

    pytest_plugins = ("umbel.testing.celery_names",)  # was: ("celery.contrib.pytest",)

What the suite overrides (``celery_config`` and so on) and its marks ``@pytest.mark.celery(…)`` go
on to count. ``celery_worker`` is ours, so it has what ``umbel_worker`` has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from umbel.app import Umbel
from umbel.testing.worker import RunningWorker


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "celery(**settings): the same as the mark umbel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let Celery's mark be ours too."""
    for item in items:
        for mark in reversed(list(item.iter_markers("celery"))):
            item.add_marker(pytest.mark.umbel(**mark.kwargs), append=False)


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the application in tests. Override it."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """What the class Umbel is called with. Override it."""
    return {}


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules to import before a test. Override it."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Literal["solo", "threads"]:
    """The pool of the worker: solo, or threads. Override it."""
    return "solo"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """What ``umbel.testing.running_worker`` is called with. Override it."""
    return {}


@pytest.fixture(scope="session")
def umbel_config(celery_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same."""
    return celery_config


@pytest.fixture(scope="session")
def umbel_parameters(celery_parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same."""
    return celery_parameters


@pytest.fixture(scope="session")
def umbel_includes(celery_includes: Sequence[str]) -> Sequence[str]:
    """The same."""
    return celery_includes


@pytest.fixture(scope="session")
def umbel_worker_pool(celery_worker_pool: Literal["solo", "threads"]) -> Literal["solo", "threads"]:
    """The same."""
    return celery_worker_pool


@pytest.fixture(scope="session")
def umbel_worker_parameters(celery_worker_parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same."""
    return celery_worker_parameters


@pytest.fixture
def celery_app(umbel_app: Umbel) -> Umbel:
    """``umbel_app``."""
    return umbel_app


@pytest.fixture
def celery_worker(umbel_worker: RunningWorker) -> RunningWorker:
    """``umbel_worker``."""
    return umbel_worker


@pytest.fixture(scope="session")
def celery_session_app(umbel_session_app: Umbel) -> Umbel:
    """``umbel_session_app``."""
    return umbel_session_app


@pytest.fixture(scope="session")
def celery_session_worker(umbel_session_worker: RunningWorker) -> RunningWorker:
    """``umbel_session_worker``."""
    return umbel_session_worker
