"""Share one server of each kind among all processes of a test run.

RabbitMQ takes about six seconds of both cores to start, so pytest-xdist's processes must not
start one each; and a run that needs none should start none. So a server is started by whichever
process asks first, and it must outlive that process, but not the run, however the run ends.

- The *run* is a directory, made by the pytest process that the user started (`test_run`). It
  holds a FIFO, `end`, that this process keeps open for writing.
- A *keeper* is a small background process per server (`python -m tests.sharing KIND RUN`), started
  under a file lock. It starts the server, writes `KIND.json`, and waits for a byte or the end of
  file on the FIFO: the kernel closes that even when pytest is killed with SIGKILL, so no server
  is ever left behind.
- A keeper holds a shared lock on the file `keepers` while it lives; at the end of the run pytest
  takes that lock exclusively, which waits until the last server is gone.

Rejected: a server for each xdist process (slow), reference counts (wrong after a crash), and
`PR_SET_PDEATHSIG` (Linux only, and tied to a thread).

Within the shared server each test has a namespace of its own: a numbered database in Redis, a
virtual host in RabbitMQ, a database in PostgreSQL. Redis' publish/subscribe channels know no
databases: their names must carry what tells two tests apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import (
    ServerError,
    add_vhosts,
    create_database,
    postgresql_server,
    rabbitmq_server,
    redis_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.servers import Server

#: Numbered databases of the shared Redis, one for each test that asks.
REDIS_DATABASES = 1024
#: Virtual hosts made by one order to RabbitMQ: it costs 0.5 s for one of them and 0.6 s for 16.
VHOST_BATCH = 16


@dataclass(frozen=True, slots=True)
class Shared:
    """What a keeper tells of its server."""

    url: str
    environment: dict[str, str]


@contextlib.contextmanager
def test_run() -> Generator[Path]:
    """Make the directory of a run; at its end stop every server that was started for it."""
    run = Path(tempfile.mkdtemp(prefix="umbel-tests-"))
    run.chmod(0o711)  # PostgreSQL's user must be able to pass through
    os.mkfifo(run / "end")
    end = os.open(run / "end", os.O_RDWR)
    try:
        yield run
    finally:
        os.write(end, b"end")
        with (run / "keepers").open("w") as keepers:
            fcntl.flock(keepers, fcntl.LOCK_EX)
        os.close(end)
        shutil.rmtree(run)


def redis_database(run: Path) -> str:
    """Return the url of an empty database on the shared Redis, starting that if need be."""
    url = _shared("redis", run).url
    with _locked(run, "redis-database"):
        number = _take_number(run / "redis-database.count")
    if number >= REDIS_DATABASES:
        raise ServerError(f"more than {REDIS_DATABASES} databases asked for in one run")
    return f"{url.rpartition('/')[0]}/{number}"


def rabbitmq_vhost(run: Path) -> str:
    """Return the url of an empty virtual host on the shared RabbitMQ, starting that if need be."""
    shared = _shared("rabbitmq", run)
    with _locked(run, "rabbitmq-vhost"):
        count = run / "rabbitmq-vhost.count"
        if (number := _number(count)) % VHOST_BATCH == 0:
            batch = range(number, number + VHOST_BATCH)
            add_vhosts(shared.environment, [f"test-{each}" for each in batch])
        _take_number(count)  # only now: what failed is tried again by the next test
    return f"{shared.url.removesuffix('/')}test-{number}"


def rabbitmq_environment(run: Path) -> dict[str, str]:
    """Return what `rabbitmqctl` needs to find the shared RabbitMQ."""
    return _shared("rabbitmq", run).environment


def postgresql_database(run: Path) -> str:
    """Return the url of an empty database on the shared PostgreSQL, starting that if need be."""
    url = _shared("postgresql", run).url
    with _locked(run, "postgresql-database"):
        number = _take_number(run / "postgresql-database.count")
        return create_database(url, f"test_{number}")


def server_directory(run: Path) -> Path:
    """Return a new directory for a private server that a test starts itself."""
    directory = Path(tempfile.mkdtemp(prefix="private-", dir=run))
    directory.chmod(0o711)
    return directory


def _shared(kind: str, run: Path) -> Shared:
    state = run / f"{kind}.json"
    with _locked(run, kind):
        if not state.exists():
            _start_keeper(kind, run)
    told = json.loads(state.read_text())
    if "error" in told:
        raise ServerError(told["error"])
    return Shared(**told)


def _start_keeper(kind: str, run: Path) -> None:
    with (run / f"{kind}.keeper.log").open("w+") as log:
        subprocess.run(
            [sys.executable, "-m", "tests.sharing", kind, str(run)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if not (run / f"{kind}.json").exists():
            log.seek(0)
            raise ServerError(f"the keeper of {kind} failed: {log.read()}")


@contextlib.contextmanager
def _locked(run: Path, name: str) -> Generator[None]:
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _take_number(file: Path) -> int:
    number = _number(file)
    file.write_text(str(number + 1))
    return number


def _number(file: Path) -> int:
    return int(file.read_text()) if file.exists() else 0


# --- the keeper's process -------------------------------------------------------------------

KINDS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Server]]] = {
    "redis": lambda directory: redis_server(directory, databases=REDIS_DATABASES),
    "rabbitmq": rabbitmq_server,
    "postgresql": postgresql_server,
}


def main(kind: str, run: Path) -> None:
    """Go to the background; return in the foreground when the server's state is written."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.read(reader, 1)
        return
    os.setsid()
    os.close(reader)
    with (run / "keepers").open("a") as keepers:
        fcntl.flock(keepers, fcntl.LOCK_SH)
        with contextlib.ExitStack() as stack:
            state = _state_of(lambda: stack.enter_context(KINDS[kind](run / kind)))
            (run / f"{kind}.json").write_text(json.dumps(state))
            os.close(writer)
            end = os.open(run / "end", os.O_RDONLY | os.O_NONBLOCK)
            select.select([end], [], [])


def _state_of(start: Callable[[], Server]) -> dict[str, object]:
    try:
        server = start()
    except ServerError as error:
        return {"error": str(error)}
    return {"url": server.url, "environment": server.environment}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
