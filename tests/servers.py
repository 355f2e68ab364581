"""Start private Redis, RabbitMQ and PostgreSQL servers, for tests and benchmarks.

Each server has a free port, a data directory and a log of its own, so a run disturbs nothing that
is already on the machine and several runs may go on at once. A server that is not installed is an
error that says how to install it, never a reason to skip.

Three context managers (`redis_server`, `rabbitmq_server`, `postgresql_server`) give a `Server`
that a test may stop, kill, freeze and start again. A test that only needs *some* server takes a
fixture of `tests/conftest.py` instead, which shares one server among the whole run; how that
works is in `tests/sharing.py`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

#: Seconds a server may take until it answers. RabbitMQ needs most: an Erlang VM and its boot steps.
START_TIMEOUT = 120.0
#: Seconds an orderly stop may take before the server's processes are killed.
STOP_TIMEOUT = 20.0
#: Seconds between two attempts to connect to a server that is starting.
RETRY_PAUSE = 0.02
#: Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20_000, 32_000)

INSTALL_HINT = "run 'make servers', or 'make test-fast' for the tests that need none"


class ServerError(Exception):
    """A server that a test needs is missing, did not start or refused an order."""


class Server:
    """One server process, in a session of its own so that its children die with it.

    Owned by one thread. `start` and `stop` may be repeated; data, port and log stay the same.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        url: str,
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.url = url
        self.log = log
        self.environment = dict(environment or {})
        self._command = [str(word) for word in command]
        self._ready = ready
        self._directory = directory or log.parent
        self._user = user
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.url} is not running")
        return self._process.pid

    def start(self, *, timeout: float = START_TIMEOUT) -> Self:
        """Start the process and return when it accepts connections."""
        if self._process is not None:
            return self
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                cwd=self._directory,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process, deadline=time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, *, timeout: float = STOP_TIMEOUT) -> None:
        """Ask the server to stop, wait for it, and kill what is left of it."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Kill the server's whole session at once, as a power cut would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stop scheduling the server: connections stay open and nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], *, deadline: float) -> None:
        while not self._ready():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(RETRY_PAUSE)
                raise self._failure(f"ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure("was not ready in time")

    def _failure(self, what: str) -> ServerError:
        tail = self.log.read_text(errors="replace").splitlines()[-20:]
        lines = "\n  ".join([f"{self._command[0]} {what}; its log {self.log} ends:", *tail])
        return ServerError(lines)


@contextlib.contextmanager
def running(server: Server) -> Generator[Server]:
    """Start a server for the length of a block."""
    try:
        yield server.start()
    finally:
        server.stop()


# --- Redis ----------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_server(directory: Path, *options: str, databases: int = 16) -> Generator[Server]:
    """Run a private Redis; `options` are its own: `"--appendonly", "yes"`.

    Nothing is persisted unless the options ask for it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--dir": str(directory),
        "--databases": str(databases),
        "--save": "",
        "--enable-debug-command": "yes",
    }
    words = [word for pair in settings.items() for word in pair]
    with running(
        Server(
            [program("redis-server"), *words, *options],
            url=f"redis://127.0.0.1:{port}/0",
            log=directory / "redis.log",
            ready=lambda: answers(port, b"PING\r\n", b"+PONG"),
        )
    ) as server:
        yield server


@contextlib.contextmanager
def redis_sentinel(directory: Path, master: Server, *, name: str) -> Generator[Server]:
    """Run a sentinel that alone decides when this master has failed, after half a second."""
    directory.mkdir(parents=True, exist_ok=True)
    port, (_, _, master_port) = free_port(), master.url.removesuffix("/0").rpartition(":")
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {directory}",
        f"sentinel monitor {name} 127.0.0.1 {master_port} 1",
        f"sentinel down-after-milliseconds {name} 500",
        f"sentinel failover-timeout {name} 5000",
    ]
    configuration = directory / "sentinel.conf"
    configuration.write_text("\n".join([*lines, ""]))
    with running(
        Server(
            [program("redis-server"), configuration, "--sentinel"],
            url=f"sentinel://127.0.0.1:{port}/0",
            log=directory / "sentinel.log",
            ready=lambda: answers(port, b"PING\r\n", b"+PONG"),
        )
    ) as server:
        yield server


# --- RabbitMQ -------------------------------------------------------------------------------


@contextlib.contextmanager
def rabbitmq_server(directory: Path, *, management: bool = False) -> Generator[Server]:
    """Run a private RabbitMQ node with its own Erlang port mapper, cookie and data.

    With `management` the HTTP interface listens on the port that `management_port` returns.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port, port_mapper = free_port(), free_port()
    environment = _rabbitmq_environment(directory, port=port, port_mapper=port_mapper)
    (directory / "rabbitmq.conf").write_text(_rabbitmq_configuration(port))
    plugins = "[rabbitmq_management]." if management else "[]."
    (directory / "enabled_plugins").write_text(plugins)
    epmd = Server(
        [program("epmd"), "-port", str(port_mapper), "-address", "127.0.0.1"],
        url=f"epmd://127.0.0.1:{port_mapper}",
        log=directory / "epmd.log",
        ready=lambda: answers(port_mapper, b"\x00\x01n", port_mapper.to_bytes(4, "big")),
        environment=environment,
    )
    node = Server(
        [_rabbitmq_program("rabbitmq-server")],
        url=f"amqp://guest:guest@127.0.0.1:{port}//",
        log=directory / "rabbitmq.log",
        ready=lambda: answers(port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00"),
        environment=environment,
    )
    with running(epmd), running(node):
        yield node


def rabbitmqctl(environment: Mapping[str, str], *words: str) -> str:
    """Give an order to the node of this environment; it takes about a second, so give few."""
    command = [str(_rabbitmq_program("rabbitmqctl")), "--quiet", *words]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT,
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def add_vhosts(environment: Mapping[str, str], names: Sequence[str]) -> None:
    """Make virtual hosts that `guest` may use, all in one order."""
    listed = ",".join(f'<<"{name}">>' for name in names)
    rabbitmqctl(
        environment,
        "eval",
        '[begin ok = rabbit_vhost:add(V, <<"guest">>), '
        'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, V, '
        '<<".*">>, <<".*">>, <<".*">>, <<"guest">>) end || V <- [' + listed + "]].",
    )


def management_port(port: int) -> int:
    """Return where a node that serves AMQP on `port` has its HTTP interface."""
    return port + len(PORTS)


def _rabbitmq_configuration(port: int) -> str:
    return "\n".join(
        [
            f"listeners.tcp.local = 127.0.0.1:{port}",
            f"management.tcp.port = {management_port(port)}",
            "management.tcp.ip = 127.0.0.1",
            # The default wants as much free disk as a production machine has.
            "disk_free_limit.absolute = 50MB",
            "",
        ]
    )


def _rabbitmq_environment(directory: Path, *, port: int, port_mapper: int) -> dict[str, str]:
    return {
        "HOME": str(directory),  # the Erlang cookie is made here
        "ERL_EPMD_PORT": str(port_mapper),
        "RABBITMQ_NODENAME": f"umbel-{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
        # The start script then becomes the Erlang VM instead of watching it: one process, our pid.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def _rabbitmq_program(name: str) -> Path:
    # Debian's command on the PATH insists on the system's user, so its own script comes first.
    return program(name, "/usr/lib/rabbitmq/bin")


# --- PostgreSQL -----------------------------------------------------------------------------


@contextlib.contextmanager
def postgresql_server(directory: Path, *options: str) -> Generator[Server]:
    """Run a private PostgreSQL cluster; `options` are settings: `"synchronous_commit=off"`."""
    directory.mkdir(parents=True, exist_ok=True)
    user = _postgresql_user()
    if user is not None:
        shutil.chown(directory, user, user)
    data, port = directory / "data", free_port()
    settings = [
        "listen_addresses=127.0.0.1",
        f"port={port}",
        f"unix_socket_directories={directory}",
        *options,
    ]
    if not data.exists():
        _initialise_cluster(data, user)
    with running(
        Server(
            [_postgresql_program("postgres"), "-D", data, *(f"--{word}" for word in settings)],
            url=f"postgresql://postgres@127.0.0.1:{port}/postgres",
            log=directory / "postgresql.log",
            ready=lambda: _postgresql_accepts(port),
            user=user,
            stop_signal=signal.SIGINT,  # "fast": do not wait for clients to leave
        )
    ) as server:
        yield server


def create_database(url: str, name: str) -> str:
    """Make a database in the cluster at `url`; return its own url."""
    server, _, _ = url.rpartition("/")
    _run([_postgresql_program("createdb"), "--maintenance-db", url, name])
    return f"{server}/{name}"


def _initialise_cluster(data: Path, user: str | None) -> None:
    words = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    _run([_postgresql_program("initdb"), "-D", data, *words], user=user, cwd=data.parent)


def _postgresql_accepts(port: int) -> bool:
    command = f"{_postgresql_program('pg_isready')} --quiet --host=127.0.0.1 --port={port}"
    return subprocess.run(command.split(), check=False).returncode == 0


def _postgresql_user() -> str | None:
    """Name whom the server runs as; it refuses to be root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _postgresql_program(name: str) -> Path:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return program(name, *map(str, folders))


# --- what they share ------------------------------------------------------------------------


def free_port() -> int:
    """Return a port nobody listens on. A race is possible and, over 12,000 ports, very rare."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def program(name: str, *folders: str) -> Path:
    """Find an executable in these folders, then on the PATH and where Debian puts daemons."""
    search = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    if found is None:
        raise ServerError(f"{name} is not installed: {INSTALL_HINT}")
    return Path(found)


def answers(port: int, request: bytes, beginning: bytes) -> bool:
    """Tell whether whoever listens on this port answers `request` with this beginning."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(request)
            return connection.recv(64).startswith(beginning)
    except OSError:
        return False


def _run(
    command: Sequence[str | Path], *, user: str | None = None, cwd: Path | None = None
) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT,
        cwd=cwd,
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
