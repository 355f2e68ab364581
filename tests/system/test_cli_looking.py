"""``umbel status``, ``top``, ``shell`` and the completion of the shell."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.system.brokers import project_on
from tests.system.projects import UMBEL, Project, eventually

TASKS = """
import os
import time

from umbel import Umbel

app = Umbel("tasks")


@app.task
def wait():
    while not os.path.exists("go"):
        time.sleep(0.02)


@app.task
def add(x, y):
    return x + y
"""


@pytest.fixture(params=["sqlite", "redis", "rabbitmq+redis"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    return project_on(request.param, tmp_path, request, TASKS)


@pytest.fixture
def plain(tmp_path: Path) -> Project:
    return Project(tmp_path, TASKS, UMBEL_APP="tasks")


def test_status_and_top_tell_who_works_on_what(project: Project) -> None:
    done = project.umbel("status")
    assert (done.returncode, done.stdout, done.stderr) == (69, "", "umbel: no worker lives\n")
    with project.worker("worker", "-c", "2", "-n", "w1@%h"):
        sent = project.out("call", "tasks.wait")
        project.out("result", project.out("call", "tasks.add", "-a", "[1, 2]"), "--wait")
        text = eventually(lambda: project.out("top", "--once"), lambda text: sent in text)
        assert text.startswith("1 worker, 1 running, ")
        (line,) = [line.split() for line in text.splitlines() if sent in line]
        assert line[1:3] == ["tasks.wait", sent]
        assert any(line.split()[:1] == ["celery"] for line in text.splitlines())
        (node,) = json.loads(project.out("status", "--json"))
        assert node["node"].startswith("w1@")
        assert {"tasks.add", "tasks.wait"} <= set(node["tasks"])
        (process,) = [each for each in node["processes"] if each["count"]]
        assert process["running"][0]["id"] == sent
        assert str(process["pid"]) == line[0]
        heads, row = project.out("status").splitlines()
        assert heads.split() == ["node", "pool", "processes", "running", "done", "queues"]
        assert row.split()[1:4] == ["prefork", "2", "1"]
        project.write("go", "")
        project.out("result", sent, "--wait")
    assert project.umbel("status").returncode == 69


def test_without_a_ledger_nobody_knows(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    project = project_on("rabbitmq", tmp_path, request, TASKS)
    project.out("call", "tasks.add", "-a", "[1, 2]")
    done = project.umbel("status")
    assert done.returncode == 1
    assert "need a ledger" in done.stderr
    text = project.out("top", "--once")
    assert text.startswith("this broker has no ledger: workers tell nobody of themselves")
    assert any(line.split()[:2] == ["celery", "~1"] for line in text.splitlines())


def test_top_is_live_until_q_is_pressed(plain: Project) -> None:
    plain.out("call", "tasks.wait")
    terminal, its_end = pty.openpty()
    environment = {**os.environ, **plain.environment, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [*UMBEL, "top", "-i", "0.1"],
        cwd=plain.folder,
        env=environment,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
    ) as top:
        os.close(its_end)
        read_until(terminal, b"0 workers")
        with plain.worker("worker", "-c", "1"):
            read_until(terminal, b"tasks.wait")
            plain.write("go", "")
        os.write(terminal, b"q")
        read_until(terminal, b"\x1b[?1049l")  # back from the screen of its own
        assert top.wait(20) == 0
    os.close(terminal)


def read_until(terminal: int, wanted: bytes) -> None:
    seen, deadline = b"", time.monotonic() + 20
    poll = select.poll()  # select.select knows no descriptors above 1023, and a run has many
    poll.register(terminal, select.POLLIN)
    while wanted not in seen:
        assert poll.poll(max(deadline - time.monotonic(), 0) * 1000), seen
        seen += os.read(terminal, 65536)


def test_top_needs_a_terminal(plain: Project) -> None:
    done = plain.umbel("top")
    assert done.returncode == 2
    assert (
        done.stderr == "umbel: this is no terminal: --once prints it once (see umbel top --help)\n"
    )


def test_shell_has_application_and_tasks(plain: Project) -> None:
    script = "print(app.main, add(1, 2), group([add.s(1, 1)]), celery is app)\n"
    done = plain.umbel("shell", "--python", answer=script)
    assert done.returncode == 0
    assert "tasks 3 " in done.stdout
    assert "True" in done.stdout
    done = plain.umbel("shell", "-P", "-T", answer="print('add' in globals())\n")
    assert "False" in done.stdout
    if find_spec("IPython") is None:
        done = plain.umbel("shell", "--ipython")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("umbel worke", "worker"),
        ("umbel dead re", "requeue"),
        ("umbel revoke --term", "--terminate"),
    ],
)
def test_the_shell_completes(plain: Project, words: str, wanted: str) -> None:
    number = len(words.split()) - 1
    asked = {
        "_UMBEL_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(number),
    }
    done = plain.umbel(environment=asked)
    assert done.stdout.splitlines() == [f"plain,{wanted}"]


def test_call_takes_exchange_key_and_serializer(plain: Project) -> None:
    plain.write(
        "celeryconfig.py",
        "task_queues = {'mail': {'exchange': 'post', 'routing_key': 'letters'}}\n"
        "accept_content = ['json', 'yaml']\n",
    )
    plain.write("tasks.py", TASKS + "\napp.config_from_object('celeryconfig')\n")
    with plain.worker("worker", "-c", "1"):
        sent = plain.out(
            "call",
            "tasks.add",
            *("-a", "[1, 2]", "--exchange", "post", "--routing-key", "letters"),
            *("--serializer", "yaml"),
        )
        assert plain.out("result", sent, "--wait") == "3"
