"""``umbel worker``, as a user starts it: a folder, a module, a command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.servers import free_port, redis_server
from tests.system.projects import UMBEL, Project

TASKS = """
import os
import threading

from umbel import Umbel, get_task_logger

app = Umbel("tasks")
logger = get_task_logger(__name__)
THREADS_AT_IMPORT = threading.active_count()
IMPORTED_BY = os.getpid()


@app.task
def add(x, y):
    return x + y


@app.task
def where():
    logger.info("looking")
    print("printed")
    return {"pid": os.getpid(), "parent": os.getppid(), "imported_by": IMPORTED_BY}


@app.task
def fail():
    raise ValueError("on purpose")


@app.task(throws=(KeyError,))
def miss():
    raise KeyError("expected")
"""

WITH_A_THREAD = (
    TASKS
    + """
threading.Thread(target=threading.Event().wait, name="exporter", daemon=True).start()
"""
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with tasks."""
    return Project(tmp_path, TASKS)


def result_of(project: Project, task: str, *arguments: str) -> str:
    task_id = project.out("call", task, *arguments)
    return project.out("result", task_id, "--wait", "--timeout", "20", "--json")


def wait_until(log: Path, text: str) -> str:
    deadline = time.monotonic() + 20
    while text not in (found := log.read_text()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    "arguments",
    [("worker", "-A", "tasks"), ("-A", "tasks", "worker"), ("worker", "-A", "tasks:app")],
    ids=" ".join,
)
def test_it_runs_the_tasks_of_a_module(project: Project, arguments: tuple[str, ...]) -> None:
    with project.worker(*arguments, "-c", "1"):
        found = json.loads(result_of(project, "tasks.add", "-a", "[2, 3]"))
    assert (found["state"], found["result"]) == ("SUCCESS", 5)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_each_pool_stops_well(project: Project, pool: str) -> None:
    # Given
    with project.worker("worker", "-A", "tasks", "-c", "2", "-P", pool) as worker:
        result_of(project, "tasks.add", "-a", "[2, 3]")
        # When
        os.kill(worker.pid, signal.SIGTERM)
        # Then
        _, status = os.waitpid(worker.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        text = worker.log.read_text()
    assert f"concurrency:   2 ({pool})" in text
    assert "Traceback" not in text


def test_its_output(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "2", "-l", "info", "-n", "w1@%h") as worker:
        # When
        for task in ("tasks.where", "tasks.fail", "tasks.miss"):
            project.umbel("result", "--wait", project.out("call", task))
        # Then
        text = wait_until(worker.log, "raised expected")
    banner, _, log = text.partition(" ready.\n")
    assert "w1@" in banner
    assert re.search(
        rf"transport: +sqlite:///{re.escape(str(project.folder.parent))}/state", banner
    )
    assert re.search(r"^  celery +exchange=celery\(direct\) key=celery$", banner, re.MULTILINE)
    assert "  tasks.add\n  tasks.fail\n" in banner
    assert re.search(r": INFO/Worker-\d+\] Task tasks\.where\[[0-9a-f-]{36}\] received\n", log)
    assert re.search(r": INFO/Worker-\d+\] tasks\.where\[[0-9a-f-]{36}\]: looking\n", log)
    assert re.search(r": WARNING/Worker-\d+\] tasks\.where\[[0-9a-f-]{36}\]: printed\n", log)
    assert re.search(r"tasks\.where\[\S+\] succeeded in 0\.\d+s: \{'pid'", log)
    assert re.search(r"ERROR/\S+ Task tasks\.fail\[\S+\] failed after \S+s: ValueError\('on", log)
    assert 'raise ValueError("on purpose")' in log
    assert re.search(r"INFO/\S+ Task tasks\.miss\[\S+\] raised expected: KeyError", log)
    assert "\x1b" not in text


def test_at_the_usual_level_only_failures_are_told(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1") as worker:
        result_of(project, "tasks.where")
        project.umbel("result", "--wait", project.out("call", "tasks.fail"))
        log = wait_until(worker.log, "on purpose").partition(" ready.\n")[2]
    assert "looking" not in log
    assert log.count("Task tasks.") == 1


def test_children_share_what_the_supervisor_imported(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "1") as worker:
        found = json.loads(result_of(project, "tasks.where"))["result"]
        pid = worker.pid
    assert found["imported_by"] == found["parent"] == pid


def test_an_application_with_threads_is_imported_by_each_child(project: Project) -> None:
    # Given an application that starts a thread when it is imported
    project.write("tasks.py", WITH_A_THREAD)
    # When
    with project.worker("worker", "-A", "tasks", "-c", "1", "-I", "tasks") as worker:
        found = json.loads(result_of(project, "tasks.where"))["result"]
        pid = worker.pid
        text = worker.log.read_text()
    # Then
    assert "started threads (exporter)" in text
    assert found["imported_by"] == found["pid"] != pid
    assert found["parent"] == pid


def test_so_is_one_in_another_folder(project: Project) -> None:
    project.write("inner/tasks.py", WITH_A_THREAD)
    with project.worker("worker", "-A", "tasks", "-c", "1", "--workdir", "inner") as worker:
        # Then the folder is not looked for twice
        assert "started threads" in worker.log.read_text()


def test_it_consumes_the_queues_it_is_told(project: Project) -> None:
    # Given
    project.write(
        "celeryconfig.py",
        "task_queues = ['celery', 'mail', 'pictures']\n",
    )
    project.write("tasks.py", TASKS + "\napp.config_from_object('celeryconfig')\n")
    waiting = project.out("-A", "tasks", "call", "tasks.where", "--queue", "pictures")
    # When
    with project.worker("worker", "-A", "tasks", "-c", "1", "-X", "pictures") as worker:
        done = project.out("-A", "tasks", "call", "tasks.where", "--queue", "mail")
        project.out("result", done, "--wait")
        shown = worker.log.read_text()
    # Then
    assert project.umbel("result", waiting).returncode == 1
    assert "  mail " in shown
    assert "  pictures " not in shown
    with project.worker("worker", "-A", "tasks", "-c", "1", "-Q", "pictures,mail"):
        project.out("result", waiting, "--wait", "--timeout", "20")


def test_ctrl_c_ends_it(project: Project) -> None:
    with project.worker("worker", "-A", "tasks", "-c", "2") as worker:
        pid = worker.pid
        os.killpg(pid, signal.SIGINT)  # as a terminal does: to all of its processes
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "Traceback" not in worker.log.read_text()


def test_it_waits_for_its_broker(project: Project, tmp_path: Path) -> None:
    # Given a broker that is not there
    directory = tmp_path / "redis"
    with redis_server(directory) as redis:
        redis.stop()
        log = tmp_path / "worker.log"
        command = [*UMBEL, "worker", "-A", "tasks", "-c", "1", "-b", redis.url]
        with log.open("wb") as stream:
            worker = subprocess.Popen(
                command,
                cwd=project.folder,
                env={**os.environ, **project.environment},
                stdout=stream,
                stderr=stream,
            )
        try:
            # When it comes
            wait_until(log, "The broker does not answer, waiting for it")
            redis.start()
            # Then the worker begins
            wait_until(log, " ready.")
            found = project.out("-b", redis.url, "call", "tasks.add", "-a", "[1, 2]")
            assert project.out("-b", redis.url, "result", "-w", found) == "3"
        finally:
            worker.terminate()
            worker.wait()
    text = log.read_text()
    assert re.search(r"WARNING/MainProcess\] The broker answers after \d+\.\ds\n", text)
    assert text.count("does not answer") == 1
    assert "started threads" not in text  # the driver's would be a reason to import twice
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("sqlite:////proc/no.sqlite", "umbel: /proc/no.sqlite: "),
        ("nats://here", "umbel: cannot open 'nats'"),
        ("sqlite://host/x", "umbel: 'sqlite://host/x' names a host"),
    ],
)
def test_a_broker_that_can_never_work_is_one_line(project: Project, url: str, line: str) -> None:
    done = project.umbel("worker", "-A", "tasks", "-q", "-b", url)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_waiting_for_a_broker_can_be_off(project: Project) -> None:
    never = {"UMBEL_BROKER_CONNECTION_RETRY_ON_STARTUP": "no"}
    url = f"redis://127.0.0.1:{free_port()}"
    done = project.umbel("worker", "-A", "tasks", "-q", "-b", url, environment=never)
    assert done.returncode == 1
    assert done.stderr.startswith(f"umbel: cannot connect to {url}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("imports=['nowhere']", "umbel: cannot import the application's modules (imports, "),
        ("result_expires='soon'", "umbel: cannot import 'broken': ImproperlyConfigured: result_"),
    ],
)
def test_an_application_that_is_wrong_is_one_line(
    project: Project, setting: str, line: str
) -> None:
    project.write("broken.py", f"from umbel import Umbel\napp = Umbel({setting})\n")
    done = project.umbel("worker", "-A", "broken")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


WITH_RECEIVERS = (
    TASKS
    + """
from umbel import signals


def tell(text):
    with open("told.txt", "a") as file:
        print(text, file=file)


@signals.celeryd_init.connect
def configure(sender, conf, options, **_):
    conf.worker_concurrency = 2
    tell(f"celeryd_init {sender}")


@signals.celeryd_after_setup.connect
def made(sender, instance, **_):
    tell(f"celeryd_after_setup {sender} {instance.concurrency}")


@signals.worker_init.connect
def begins(sender, **_):
    tell(f"worker_init {sender.node}")


@signals.worker_ready.connect
def is_ready(sender, **_):
    tell(f"worker_ready {sender.node}")


@signals.worker_shutting_down.connect
def ends(sender, sig, how, exitcode, **_):
    tell(f"worker_shutting_down {sender} {sig} {how} {exitcode}")


@signals.worker_shutdown.connect
def has_ended(sender, **_):
    tell(f"worker_shutdown {sender.node}")
"""
)


def test_receivers_of_signals_hear_of_a_workers_life(project: Project) -> None:
    # Given
    project.write("tasks.py", WITH_RECEIVERS)
    with project.worker("worker", "-A", "tasks", "-n", "w@h") as worker:
        # When
        os.kill(worker.pid, signal.SIGTERM)
        # Then
        _, status = os.waitpid(worker.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    assert (project.folder / "told.txt").read_text().splitlines() == [
        "celeryd_init w@h",
        "celeryd_after_setup w@h 2",
        "worker_init w@h",
        "worker_ready w@h",
        "worker_shutting_down w@h SIGTERM Warm 0",
        "worker_shutdown w@h",
    ]
