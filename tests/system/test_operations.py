"""A worker as an operator runs it: in the background, restarted, watched, in a container."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.servers import free_port
from tests.system.chaos.harness import kill, wait_until
from tests.system.projects import UMBEL, Project

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

TASKS = """
import os, time
from umbel import Umbel

app = Umbel("tasks", broker=os.environ.get("BROKER"), worker_lease=3.0)


@app.task
def where():
    print("printed")
    return os.getpid()


@app.task
def nap(seconds, path):
    open(path, "a").write("began\\n")
    time.sleep(seconds)
    return seconds


@app.task(time_limit=0.5)
def limited(path):
    open(path, "a").write("began\\n")
    time.sleep(60)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, TASKS, BROKER=f"sqlite:///{tmp_path}/broker.sqlite")


def run(project: Project) -> str:
    return project.out(
        "result", "-A", "tasks", "-w", project.out("-A", "tasks", "call", "tasks.where")
    )


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def wait_for(path: Path, text: str, count: int = 1) -> None:
    wait_until(lambda: text_of(path).count(text) >= count, timeout=60, why=lambda: text_of(path))


@contextlib.contextmanager
def detached(project: Project, *options: str) -> Generator[int]:
    """Run a worker in the background for the length of a block; its number."""
    done = project.umbel("worker", "-A", "tasks", "-c", "1", "-D", *options)
    assert done.returncode == 0, done.stderr
    pidfile = project.folder / "w.pid"
    pid = int(pidfile.read_text())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not pidfile.exists(), timeout=60, why=lambda: "the pidfile is there")


def test_in_the_background_it_writes_its_number_and_its_log(project: Project) -> None:
    log = project.folder / "w1@here.log"
    options = ("--pidfile", "w.pid", "--logfile", "%n@%h.log", "-n", "w1@here", "-l", "info")
    with detached(project, *options) as pid:
        wait_for(log, "w1@here ready.")
        assert int(run(project)) != pid
        # what tasks print is there too
        wait_for(log, "]: printed")
        # and a second one with its pidfile is refused
        second = project.umbel("worker", "-A", "tasks", "--pidfile", "w.pid")
        assert second.returncode == 73
        assert second.stderr == f"umbel: --pidfile w.pid: process {pid} runs with it\n"


def test_what_is_wrong_is_said_before_it_goes_to_the_background(project: Project) -> None:
    done = project.umbel("worker", "-A", "tasks", "-D", "-X", "celery")
    assert done.returncode == 2
    assert "no queue is left" in done.stderr


def test_a_stale_pidfile_is_taken_over(project: Project) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    project.write("w.pid", f"{ended.pid}\n")
    with detached(project, "--pidfile", "w.pid") as pid:
        assert pid != ended.pid


def test_a_number_that_another_program_has_by_now_is_stale(project: Project) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        project.write("w.pid", f"{other.pid}\n")
        with detached(project, "--pidfile", "w.pid") as pid:
            assert pid != other.pid
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (("--pidfile", "/proc/no/w.pid"), 73, "umbel: --pidfile /proc/no/w.pid: No such file"),
        (("--logfile", "/proc/no/log"), 1, "umbel: --logfile /proc/no/log: No such file"),
        (("--health", "nowhere:x"), 1, "umbel: --health nowhere:x: "),
        (("--health", "/proc/no/socket"), 1, "umbel: --health /proc/no/socket: No such file"),
        (("--health-file", "/proc/no/file"), 1, "umbel: --health-file /proc/no/file: No such file"),
        (("--uid", "nobody-at-all"), 2, "umbel: --uid, --gid: there is no 'nobody-at-all'"),
        (("-n", ""), 2, "umbel: invalid value for '-n' / '--hostname': expected a name"),
        (
            ("-c", "x"),
            2,
            "umbel: invalid value for '-c' / '--concurrency': 'x' is not a valid whole",
        ),
        (("--", "taks_serializer=json"), 2, "umbel: there is no setting 'taks_serializer'; did"),
        (("--", "worker_concurrency=x"), 2, "umbel: worker_concurrency: expected a whole number"),
        (("x",), 2, "umbel: expected SETTING=VALUE at the end, got 'x'"),
        (("--umask", "9"), 2, "umbel: --umask: expected octal digits"),
    ],
)
def test_wrong_options_are_one_line(
    project: Project, options: tuple[str, ...], code: int, line: str
) -> None:
    done = project.umbel("worker", "-q", "-A", "tasks", *options)
    assert done.returncode == code
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_settings_may_stand_at_the_end_of_the_command(project: Project) -> None:
    settings = ("--", "worker_log_format=json", "worker.pool=threads", ".concurrency=3")
    with project.worker("worker", "-A", "tasks", "-l", "info", *settings) as worker:
        assert "concurrency:   3 (threads)" in worker.log.read_text()
        project.out("-A", "tasks", "call", "tasks.where")
        wait_for(worker.log, '"task_name": "tasks.where"')


def test_options_of_what_does_not_exist_are_explained_once(project: Project) -> None:
    options = ("--prefetch-multiplier", "1", "-O", "fair", "--without-gossip", "--statedb", "x")
    with project.worker("worker", "-A", "tasks", "-c", "1", *options) as worker:
        log = worker.log.read_text()
    assert log.count("umbel: --prefetch-multiplier has no effect: how much") == 1
    assert log.count("has no effect") == 4


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_hup_starts_it_anew_with_the_program_as_it_is_by_then(project: Project, pool: str) -> None:
    # Given
    path = project.folder / "began"
    with project.worker("worker", "-A", "tasks", "-c", "1", "-P", pool, "--pidfile", "w") as worker:
        nap = project.out("-A", "tasks", "call", "tasks.nap", "-a", json.dumps([1.0, str(path)]))
        wait_for(path, "began")
        project.write("tasks.py", TASKS.replace("return os.getpid()", "return 'new'"))
        # When
        os.kill(worker.pid, signal.SIGHUP)
        wait_for(worker.log, " ready.", 2)
        # Then what ran has ended well, and the new program runs in the same process
        assert project.out("-A", "tasks", "result", "-w", nap) == "1.0"
        assert run(project) == "new"
        assert int((project.folder / "w").read_text()) == worker.pid
        assert "???" not in worker.log.read_text()  # what it says itself is no task's line
    assert path.read_text() == "began\n"


def test_a_signal_that_comes_while_it_starts_anew_does_not_end_it(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1") as worker:
        os.kill(worker.pid, signal.SIGHUP)

        def signal_until_ready() -> bool:
            os.kill(worker.pid, signal.SIGUSR1)
            return text_of(worker.log).count(" ready.") >= 2

        wait_until(signal_until_ready, timeout=60, why=lambda: text_of(worker.log))
        assert run(project)


def test_usr1_shows_what_every_thread_does_and_usr2_nothing(project: Project) -> None:
    path = project.folder / "began"
    with project.worker("worker", "-A", "tasks", "-c", "1") as worker:
        project.out("-A", "tasks", "call", "tasks.nap", "-a", json.dumps([3.0, str(path)]))
        wait_for(path, "began")
        os.kill(worker.pid, signal.SIGUSR2)
        os.kill(worker.pid, signal.SIGUSR1)
        wait_for(worker.log, "in nap")
        wait_for(worker.log, "umbel/worker/supervisor.py")
        wait_for(worker.log, "umbel/worker/node.py")


def test_term_can_mean_quit(project: Project) -> None:
    project.environment["REMAP_SIGTERM"] = "SIGQUIT"
    path = project.folder / "began"
    with project.worker("worker", "-A", "tasks", "-c", "1") as worker:
        project.out("-A", "tasks", "call", "tasks.nap", "-a", json.dumps([600.0, str(path)]))
        wait_for(path, "began")
        os.kill(worker.pid, signal.SIGTERM)
        os.waitpid(worker.pid, 0)
        assert "cold shutdown" in worker.log.read_text()


def test_as_the_first_process_of_a_container(project: Project) -> None:
    # Given a worker that is process 1 of its own namespace
    log = project.folder / "log"
    with log.open("wb") as stream:
        unshare = subprocess.Popen(
            [*UNSHARE, *UMBEL, "worker", "-A", "tasks", "-c", "1"],
            cwd=project.folder,
            env={**os.environ, **project.environment},
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_for(log, " ready.")
        (first,) = _children(unshare.pid)
        run(project)
        # When a process that has lost its parent ends there, it is reaped
        orphan = "import os; os.fork() or os._exit(0)"
        inside = ["nsenter", "--target", str(first), "--pid", "--mount"]
        subprocess.run([*inside, UMBEL[0], "-c", orphan], check=True)
        wait_until(lambda: not _zombies(first), timeout=60, why=lambda: str(_zombies(first)))
        # and TERM ends it
        os.kill(first, signal.SIGTERM)
        assert unshare.wait(10) == 0
    finally:
        kill(unshare.pid)
        unshare.wait()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zombies(pid: int) -> list[int]:
    return [
        child
        for child in _children(pid)
        if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    ]


def test_systemd_is_told_the_truth(project: Project) -> None:
    # Given something that listens as systemd does
    path = project.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(10)
        project.environment |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}
        with project.worker("worker", "-A", "tasks", "-c", "1") as worker:
            told = [systemd.recv(1000).decode() for _ in range(4)]
            os.kill(worker.pid, signal.SIGTERM)
            while "STOPPING=1" not in told[-1]:
                told.append(systemd.recv(1000).decode())
    assert any(each.startswith("READY=1\n") for each in told)
    assert "WATCHDOG=1" in told


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("unix", [False, True])
def test_probes_are_answered(project: Project, pool: str, unix: bool) -> None:  # noqa: FBT001
    path = project.folder / "health"
    address = str(path) if unix else f"127.0.0.1:{free_port()}"
    options = ("-P", pool, "--health", address, "--health-file", "alive")
    with project.worker("worker", "-A", "tasks", "-c", "1", *options) as worker:
        wait_until(
            lambda: b" 200 " in _ask(address, "/readyz"), timeout=5, why=worker.log.read_text
        )
        assert b'"alive": true' in _ask(address, "/livez")
        assert b" 404 " in _ask(address, "/")
        wait_for(project.folder / "alive", '"alive": true')
        os.kill(worker.pid, signal.SIGTERM)
        os.waitpid(worker.pid, 0)
    assert not path.exists()
    assert not (project.folder / "alive").exists()


def _ask(address: str, what: str) -> bytes:
    family = socket.AF_UNIX if "/" in address else socket.AF_INET
    host, _, port = address.rpartition(":")
    with socket.socket(family) as sock:
        sock.settimeout(5)
        sock.connect(address if family == socket.AF_UNIX else (host, int(port)))
        sock.sendall(f"GET {what} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_a_child_that_hangs_is_not_ready(project: Project) -> None:
    address = f"127.0.0.1:{free_port()}"
    with project.worker("worker", "-A", "tasks", "-c", "1", "--health", address):
        child = int(run(project))
        os.kill(child, signal.SIGSTOP)
        try:
            wait_until(lambda: b" 503 " in _ask(address, "/readyz"), timeout=60, why=str)
            assert b" 200 " in _ask(address, "/livez")
        finally:
            os.kill(child, signal.SIGCONT)
        wait_until(lambda: b" 200 " in _ask(address, "/readyz"), timeout=60, why=str)


def test_lines_may_be_json(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1", "-l", "info", "--log-json") as worker:
        run(project)
        wait_for(worker.log, "succeeded")
        log = worker.log.read_text().partition(" ready.\n")[2]
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    done = next(line for line in lines if "succeeded" in line["message"])
    assert done["task_name"] == "tasks.where"
    assert done["state"] == "SUCCESS"
    assert done["runtime"] > 0
    printed = next(line for line in lines if line["message"] == "printed")
    assert printed["task_id"] == done["task_id"]


def test_what_waited_can_be_purged_first(project: Project) -> None:
    project.out("-A", "tasks", "call", "tasks.where")
    with project.worker("worker", "-A", "tasks", "-c", "1", "--purge") as worker:
        assert "purged: 1 messages deleted\n" in worker.log.read_text()


def test_reload_follows_the_files_and_survives_an_error_in_them(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1", "--reload") as worker:
        # When a file breaks
        project.write("tasks.py", TASKS + "\ndef broken(:\n")
        wait_for(worker.log, "SyntaxError")
        # and is mended
        project.write("tasks.py", TASKS.replace("return os.getpid()", "return 'new'"))
        # Then the new program runs
        wait_for(worker.log, " ready.", 2)
        assert run(project) == "new"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_limits_of_the_command_line(project: Project, pool: str) -> None:
    path = project.folder / "began"
    options = ("-P", pool, "-c", "2", "--soft-time-limit", "0.3")
    with project.worker("worker", "-A", "tasks", *options):
        task = project.out("-A", "tasks", "call", "tasks.nap", "-a", json.dumps([1.0, str(path)]))
        done = project.umbel("-A", "tasks", "result", "-w", task)
    assert "SoftTimeLimitExceeded" in done.stdout + done.stderr


def test_a_hard_limit_in_threads_takes_the_process_and_spares_the_others(project: Project) -> None:
    # Given two tasks for the threads of one process, of which one will be over its limit
    began = [project.folder / name for name in ("a", "b")]
    send = ("-A", "tasks", "call")
    innocent = project.out(*send, "tasks.nap", "-a", json.dumps([2.0, str(began[0])]))
    limited = project.out(*send, "tasks.limited", "-a", json.dumps([str(began[1])]))
    # When
    with project.worker("worker", "-A", "tasks", "-P", "threads", "-c", "2"):
        done = project.umbel("-A", "tasks", "result", "-w", limited)
        # Then the other one runs again
        assert "TimeLimitExceeded" in done.stdout + done.stderr
        assert project.out("-A", "tasks", "result", "-w", innocent) == "2.0"
    assert began[0].read_text() == "began\n" * 2
    assert began[1].read_text() == "began\n"


def test_solo_says_what_it_cannot_do(project: Project) -> None:
    options = ("-P", "solo", "--max-tasks-per-child", "5")
    with project.worker("worker", "-A", "tasks", *options) as worker:
        log = worker.log.read_text()
    assert "worker_max_tasks_per_child has no effect in the pool solo" in log
    assert "time_limit of synchronous tasks has no effect in the pool solo" in log
