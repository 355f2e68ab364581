"""The pytest plugin: fixtures for programs that use umbel. The guide's page "Testing" tells more.

It is loaded in every run of pytest where umbel is installed. So it stands outside of the package,
and imports it only when a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from umbel import Umbel
    from umbel.testing import FakeClock, RunningWorker


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the application under test."""
    parser.addini("umbel_app", "umbel: the application that umbel_app is, as 'module:attribute'")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "umbel(**settings): settings of umbel_app in this test")


@pytest.fixture(scope="session")
def umbel_config() -> Mapping[str, Any]:
    """Settings of the application in tests. Override it."""
    return {}


@pytest.fixture(scope="session")
def umbel_parameters() -> Mapping[str, Any]:
    """What the class Umbel is called with, unless the option umbel_app names one. Override it."""
    return {}


@pytest.fixture(scope="session")
def umbel_includes() -> Sequence[str]:
    """Modules to import before a test, for their tasks. Override it."""
    return ()


@pytest.fixture(scope="session")
def umbel_worker_pool() -> Literal["solo", "threads"]:
    """The pool of the worker: solo, or threads. Override it."""
    return "solo"


@pytest.fixture(scope="session")
def umbel_worker_parameters() -> Mapping[str, Any]:
    """What ``umbel.testing.running_worker`` is called with. Override it."""
    return {}


@pytest.fixture
def umbel_clock() -> FakeClock:
    """The clock by which due times are counted in this test; it stands still until it is moved."""
    from umbel.clock import SYSTEM_CLOCK
    from umbel.testing import FakeClock

    return FakeClock(SYSTEM_CLOCK.now())


@pytest.fixture
def umbel_app(
    request: pytest.FixtureRequest,
    umbel_config: Mapping[str, Any],
    umbel_parameters: Mapping[str, Any],
    umbel_includes: Sequence[str],
    umbel_clock: FakeClock,
) -> Iterator[Umbel]:
    """The application, on a broker of its own in memory, with the settings of the mark ``umbel``.

    It is the one that the option umbel_app names, or a new one, which has all shared tasks.
    """
    app = _application(request.config, umbel_parameters)
    with _tested(app, {**umbel_config, **_marked(request.node)}, umbel_includes, umbel_clock):
        yield app


@pytest.fixture
def umbel_worker(
    umbel_app: Umbel,
    umbel_worker_pool: Literal["solo", "threads"],
    umbel_worker_parameters: Mapping[str, Any],
) -> Iterator[RunningWorker]:
    """A worker of ``umbel_app`` in threads of this process; ``umbel_clock`` goes from then on."""
    with _working(umbel_app, umbel_worker_pool, umbel_worker_parameters) as worker:
        yield worker


@pytest.fixture(scope="session")
def umbel_session_app(
    request: pytest.FixtureRequest,
    umbel_config: Mapping[str, Any],
    umbel_parameters: Mapping[str, Any],
    umbel_includes: Sequence[str],
) -> Iterator[Umbel]:
    """An application as ``umbel_app``, but one for the whole run, on a clock that goes."""
    from umbel.testing import FakeClock

    app = _application(request.config, umbel_parameters)
    with _tested(app, umbel_config, umbel_includes, FakeClock.running()):
        yield app


@pytest.fixture(scope="session")
def umbel_session_worker(
    umbel_session_app: Umbel,
    umbel_worker_pool: Literal["solo", "threads"],
    umbel_worker_parameters: Mapping[str, Any],
) -> Iterator[RunningWorker]:
    """A worker of ``umbel_session_app`` for the whole run."""
    with _working(umbel_session_app, umbel_worker_pool, umbel_worker_parameters) as worker:
        yield worker


def _application(config: pytest.Config, parameters: Mapping[str, Any]) -> Umbel:
    from umbel import Umbel
    from umbel.config import import_named

    name: str = config.getini("umbel_app")
    if not name:
        chosen: dict[str, Any] = {"main": "tests", "set_as_current": False, **parameters}
        return Umbel(**chosen)
    app = import_named(name)
    if not isinstance(app, Umbel):
        raise pytest.UsageError(f"umbel_app = {name}: expected 'module:attribute', an Umbel there")
    return app


@contextmanager
def _tested(
    app: Umbel, settings: Mapping[str, Any], includes: Sequence[str], clock: FakeClock
) -> Generator[None]:
    from umbel.testing import in_memory

    with in_memory(app, settings, clock=clock):
        for module in includes:
            import_module(module)
        yield


def _working(
    app: Umbel, pool: Literal["solo", "threads"], parameters: Mapping[str, Any]
) -> AbstractContextManager[RunningWorker]:
    from umbel.testing import running_worker

    chosen: dict[str, Any] = {"pool": pool, **parameters}
    return running_worker(app, **chosen)


def _marked(node: pytest.Item) -> dict[str, Any]:
    """Return the settings that a test's marks give it; the nearest mark wins."""
    marks = reversed(list(node.iter_markers("umbel")))
    return {name: value for mark in marks for name, value in mark.kwargs.items()}
