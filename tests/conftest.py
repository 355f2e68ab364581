"""Fixtures of the whole suite: real servers, each started when the first test asks for it.

`redis_url`, `rabbitmq_url` and `postgresql_url` give each test an empty namespace of its own on a
server that the run shares; `new_redis_url` and the like are the same for fixtures of a wider scope
or tests that need several. A test that stops, kills or configures its server starts a private one:
`with redis_server(server_directory, "--appendonly", "yes") as server: ...`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from tests import servers, sharing
from umbel.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A busy machine is no bug of ours.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

#: Where the processes of a run, pytest-xdist's among them, find its directory.
RUN_VARIABLE = "UMBEL_TEST_RUN"

#: Where the files are that take longest. Processes that share the run begin with them, so that
#: none is left with one of them at the end.
LONG_FIRST = ("system/chaos", "system/soak", "interop", "system", "contract")

#: Fixtures whose users need a server that has to be installed; `make test-fast` leaves them out.
SERVER_FIXTURES = frozenset(
    {"new_redis_url", "new_rabbitmq_url", "new_postgresql_url", "rabbitmqctl", "server_directory"}
)

#: By how many open descriptors a test file may outgrow what it found, and seconds to come down.
LEFT_OPEN, CLOSED_WITHIN = 20, 10.0


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # an xdist process uses the run it was started in
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        os.environ[RUN_VARIABLE] = str(stack.enter_context(sharing.test_run()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    folder = item.path.parent.relative_to(Path(__file__).parent).as_posix()
    return LONG_FIRST.index(folder) if folder in LONG_FIRST else len(LONG_FIRST)


@pytest.fixture(scope="module", autouse=True)
def closes_what_it_opened(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test file that leaves descriptors open: some thousand tests share one process."""
    before = open_descriptors()
    yield
    deadline = SYSTEM_CLOCK.monotonic() + CLOSED_WITHIN
    while (left := open_descriptors() - before) > LEFT_OPEN:
        assert SYSTEM_CLOCK.monotonic() < deadline, f"{request.path} leaves {left} files open"
        gc.collect()
        SYSTEM_CLOCK.sleep(0.05)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest.fixture(scope="session")
def run_directory() -> Path:
    """The directory of this test run, shared by all its processes."""
    return Path(os.environ[RUN_VARIABLE])


@pytest.fixture(scope="session")
def new_redis_url(run_directory: Path) -> Callable[[], str]:
    return functools.partial(sharing.redis_database, run_directory)


@pytest.fixture(scope="session")
def new_rabbitmq_url(run_directory: Path) -> Callable[[], str]:
    return functools.partial(sharing.rabbitmq_vhost, run_directory)


@pytest.fixture(scope="session")
def new_postgresql_url(run_directory: Path) -> Callable[[], str]:
    return functools.partial(sharing.postgresql_database, run_directory)


@pytest.fixture
def redis_url(new_redis_url: Callable[[], str]) -> str:
    """An empty database of the run's Redis."""
    return new_redis_url()


@pytest.fixture
def rabbitmq_url(new_rabbitmq_url: Callable[[], str]) -> str:
    """An empty virtual host of the run's RabbitMQ."""
    return new_rabbitmq_url()


@pytest.fixture(scope="session")
def rabbitmqctl(run_directory: Path) -> Callable[..., str]:
    """Give orders to the run's RabbitMQ; each takes about a second."""
    environment = sharing.rabbitmq_environment(run_directory)
    return functools.partial(servers.rabbitmqctl, environment)


@pytest.fixture
def postgresql_url(new_postgresql_url: Callable[[], str]) -> str:
    """An empty database of the run's PostgreSQL."""
    return new_postgresql_url()


@pytest.fixture
def server_directory(run_directory: Path) -> Path:
    """A directory for a private server; `tmp_path` is closed to PostgreSQL's own user."""
    return sharing.server_directory(run_directory)


@pytest.fixture
def own_redis_url(server_directory: Path) -> Iterator[str]:
    """A Redis of the test's own, where what concerns the whole server disturbs nobody."""
    with servers.redis_server(server_directory) as server:
        yield server.url


@pytest.fixture
def own_redis(own_redis_url: str) -> Iterator[Any]:
    """A plain client of it."""
    with redis.Redis.from_url(own_redis_url) as client:
        yield client
